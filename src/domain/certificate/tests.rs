//! What certificates say, in every form.
