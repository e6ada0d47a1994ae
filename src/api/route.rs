//! What a gateway's configuration demands for a route besides the rule, in words. It can demand more than the rule, never less.

use crate::api::native::question::{CHARGES_MAX, SCOPES_MAX, units_of};
use crate::domain::limit::Limit;
use crate::domain::question::{ExtraCharge, is_scope};

/// `a b`: scopes that the caller must have.
pub(super) fn scopes(text: &str) -> Result<Vec<&str>, String> {
    let scopes: Vec<&str> = text.split(' ').collect();
    if scopes.len() > SCOPES_MAX || !scopes.iter().all(|scope| is_scope(scope)) {
        return Err(format!("must be 1 to {SCOPES_MAX} scopes with one space between them"));
    }
    Ok(scopes)
}

/// `per-client=2, spikes`: limits that the call costs, each with its units or one.
pub(super) fn limits(text: &str) -> Result<Vec<ExtraCharge<'_>>, String> {
    let must = || {
        format!("must be 1 to {CHARGES_MAX} names of limits, each once, with units or without: `per-client=2, spikes`")
    };
    let mut charges: Vec<ExtraCharge<'_>> = Vec::new();
    for named in text.split(',') {
        let named = named.trim_matches(' ');
        let (limit, cost) = match named.split_once('=') {
            Some((limit, cost)) => (limit, units(cost)?),
            None => (named, 1),
        };
        if !Limit::is_name(limit) || charges.len() == CHARGES_MAX || charges.iter().any(|charge| charge.limit == limit)
        {
            return Err(must());
        }
        charges.push(ExtraCharge { limit, units: cost });
    }
    Ok(charges)
}

/// What the call costs in each limit of the rule.
pub(super) fn units(text: &str) -> Result<u64, String> {
    // `parse` alone would take a sign.
    let digits = text.bytes().all(|byte| byte.is_ascii_digit());
    let units = text.parse().ok().filter(|_| digits).ok_or("must be a whole number")?;
    units_of(Some(units), true)
}
