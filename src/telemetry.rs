//! Every metric name, and the log setup.
