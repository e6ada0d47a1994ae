//! The section `gateways`.

use super::reader::{Item, Reader};
use crate::domain::gateway::{Gateways, HOPS_MAX, PEERS_MAX, peers};

pub(super) fn gateways(reader: &mut Reader<'_>, item: &Item<'_>) -> Option<Gateways> {
    let default = Gateways::default();
    let mut fields = reader.fields(item, "gateways")?;
    let trusted_hops = fields.or(reader, "trusted_hops", default.trusted_hops, |reader, item| {
        reader.whole(item, 0..=HOPS_MAX).and_then(|hops| usize::try_from(hops).ok())
    });
    let forwarded_certificates =
        fields.or(reader, "forwarded_certificates", default.forwarded_certificates, |reader, item| reader.flag(item));
    let forward_auth_peers = fields.or(reader, "forward_auth_peers", default.forward_auth_peers, |reader, item| {
        reader.few(item, PEERS_MAX, |reader, item| reader.parse(item, peers))
    });
    fields.finish(reader);
    Some(Gateways {
        trusted_hops: trusted_hops?,
        forwarded_certificates: forwarded_certificates?,
        forward_auth_peers: forward_auth_peers?,
    })
}
