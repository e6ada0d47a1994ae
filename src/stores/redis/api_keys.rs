//! API keys in Redis: a hash `tollgate:api-key:<id>` for each, and the set `tollgate:api-keys` of all ids.
//!
//! A record is dropped 30 days after its key has ended, so nothing is to be cleaned up. Reading goes by the gates of the
//! counters' store, but not by its trust in what was charged: keys are there or they are not.

use futures_util::future::join_all;

use super::RedisStore;
use super::script::Call;
use crate::decide::ports::{Answer, ApiKeyRecords, Away, AwayCause, KeptKey, KeyEnding, ListedKeys};
use crate::domain::api_key::{ApiKey, KeyHash, KeyId, LIMITS_MAX, hash_from_hex, hex};
use crate::domain::date;
use crate::domain::time::Micros;

/// The set of all ids.
const IDS: &[u8] = b"tollgate:api-keys";

/// How long the record of a key that has ended is kept, for people who look for it.
const KEPT_AFTER_END: Micros = Micros::from_secs(30 * 24 * 60 * 60);

/// Records that are read at a time for a list.
const AT_A_TIME: usize = 64;

impl ApiKeyRecords for RedisStore {
    fn find(&self, id: KeyId) -> Answer<'_, Result<Option<ApiKey>, Away>> {
        Answer::later(
            async move { Ok(self.record(id).await?.and_then(|record| read(id, record)).map(|kept| kept.key)) },
        )
    }

    fn add(&self, key: ApiKey) -> Answer<'_, Result<bool, Away>> {
        Answer::later(async move {
            let mut args = vec![b"add".to_vec(), key.expires.map(dropped_at).unwrap_or_default()];
            args.extend(fields(&key).into_iter().flat_map(|(name, value)| [name.into(), value.into_bytes()]));
            let added = self.change(record_key(key.id), args).await?;
            if added {
                // Whoever adds a key hands it out only when this is done, too: nobody holds one that is not listed.
                self.change(IDS.to_vec(), vec![b"enlist".to_vec(), key.id.as_str().into()]).await?;
            }
            Ok(added)
        })
    }

    fn end(&self, id: KeyId, ending: KeyEnding) -> Answer<'_, Result<bool, Away>> {
        let args = match ending {
            KeyEnding::Revoked => vec![b"revoke".to_vec(), millis(KEPT_AFTER_END)],
            KeyEnding::At(end) => vec![b"expire".to_vec(), dropped_at(end), date::written(end).into_bytes()],
        };
        Answer::later(self.change(record_key(id), args))
    }

    fn note_use(&self, id: KeyId) -> Answer<'_, Result<(), Away>> {
        Answer::later(async move { self.change(record_key(id), vec![b"use".to_vec()]).await.map(|_| ()) })
    }

    fn list(&self) -> Answer<'_, Result<ListedKeys, Away>> {
        Answer::later(async move {
            let ids = self.texts(IDS.to_vec(), b"ids").await?;
            let mut ids: Vec<KeyId> = ids.iter().filter_map(|id| KeyId::parse(id)).collect();
            ids.sort_unstable();
            let mut listed = Vec::with_capacity(ids.len());
            for ids in ids.chunks(AT_A_TIME) {
                let records = join_all(ids.iter().map(|&id| self.record(id))).await;
                for (&id, record) in ids.iter().zip(records) {
                    match record? {
                        Some(record) => listed.push((id, read(id, record))),
                        // It was dropped.
                        None => {
                            self.change(IDS.to_vec(), vec![b"strike".to_vec(), id.as_str().into()]).await?;
                        }
                    }
                }
            }
            Ok(listed)
        })
    }
}

impl RedisStore {
    /// The fields and values of a record; none: there is no record.
    async fn record(&self, id: KeyId) -> Result<Option<Vec<String>>, Away> {
        let record = self.texts(record_key(id), b"find").await?;
        Ok((!record.is_empty()).then_some(record))
    }

    async fn texts(&self, key: Vec<u8>, task: &[u8]) -> Result<Vec<String>, Away> {
        self.keyed(key, vec![task.to_vec()], |answer| match answer {
            // Lua does not tell an empty list from an empty mapping.
            b"{}" => Some(Vec::new()),
            answer => serde_json::from_slice(answer).ok(),
        })
        .await
    }

    async fn change(&self, key: Vec<u8>, args: Vec<Vec<u8>>) -> Result<bool, Away> {
        let read = |answer: &[u8]| match answer {
            b"1" => Some(true),
            b"0" => Some(false),
            _ => None,
        };
        self.keyed(key, args, read).await
    }

    /// Runs the script of API keys for one Redis key.
    async fn keyed<T>(&self, key: Vec<u8>, args: Vec<Vec<u8>>, read: impl Fn(&[u8]) -> Option<T>) -> Result<T, Away> {
        let call = |_: &[()], _| Call { keys: vec![key.clone()], args: args.clone(), ..Call::default() };
        let read = |answer: &[u8], _| Some([Ok(read(answer)?)].into_iter().collect());
        let (answers, _) = self.0.ask(&self.0.api_key, &[()], call, read).await;
        answers.into_iter().next().unwrap_or(Err(Away { because: AwayCause::Garbled }))
    }
}

fn record_key(id: KeyId) -> Vec<u8> {
    format!("tollgate:api-key:{id}").into_bytes()
}

/// When the record of a key is dropped that ends then.
fn dropped_at(end: Micros) -> Vec<u8> {
    millis(end + KEPT_AFTER_END)
}

fn millis(time: Micros) -> Vec<u8> {
    (time.0 / 1_000).to_string().into_bytes()
}

/// What is kept of a key, name by name.
fn fields(key: &ApiKey) -> Vec<(&'static str, String)> {
    let ApiKey { id: _, hash, owner, tenant, scopes, roles, limits, created, not_before, expires, revoked } = key;
    let mut fields = vec![("sha256", hex(hash)), ("owner", owner.to_string())];
    fields.extend(tenant.iter().map(|tenant| ("tenant", tenant.to_string())));
    let lists = [("scopes", scopes), ("roles", roles), ("limits", limits)];
    let lists = lists.into_iter().filter(|(_, list)| !list.is_empty());
    fields.extend(
        lists.map(|(name, list)| (name, list.iter().map(|text| &**text).collect::<serde_json::Value>().to_string())),
    );
    let dates = [("created", created), ("not_before", not_before), ("expires", expires)];
    fields.extend(dates.into_iter().filter_map(|(name, moment)| moment.map(|moment| (name, date::written(moment)))));
    fields.extend(revoked.then(|| ("revoked", "1".to_owned())));
    fields
}

/// What a record says. One that makes no sense is no key's, and the log says so.
fn read(id: KeyId, record: Vec<String>) -> Option<KeptKey> {
    let read = sense(id, record);
    if let Err(field) = &read {
        tracing::warn!(key = %id, field, "an API key is refused: this field of its record makes no sense");
    }
    read.ok()
}

/// Or the field that makes no sense. One that is not known is none to be passed over: it may forbid something.
fn sense(id: KeyId, record: Vec<String>) -> Result<KeptKey, String> {
    let (mut hash, mut owner, mut used) = (None, None, None);
    let mut key = ApiKey::plain(id, KeyHash::default(), "");
    let mut rest = record.into_iter();
    while let Some(name) = rest.next() {
        let value = rest.next().unwrap_or_default();
        let list = || serde_json::from_str::<Box<[Box<str>]>>(&value).ok();
        let moment = || date::parse(&value).map(Some);
        let known = match name.as_str() {
            "sha256" => hash_from_hex(&value).map(|value| hash = Some(value)),
            "owner" => (!value.is_empty()).then(|| owner = Some(value.into())),
            "tenant" => (!value.is_empty()).then(|| key.tenant = Some(value.into())),
            "scopes" => list().map(|list| key.scopes = list),
            "roles" => list().map(|list| key.roles = list),
            "limits" => list().filter(|list| list.len() <= LIMITS_MAX).map(|list| key.limits = list),
            "created" => moment().map(|moment| key.created = moment),
            "not_before" => moment().map(|moment| key.not_before = moment),
            "expires" => moment().map(|moment| key.expires = moment),
            "revoked" => (value == "1").then(|| key.revoked = true),
            "used" => value.parse().ok().map(|secs| used = Some(Micros::from_secs(secs))),
            _ => None,
        };
        known.ok_or(name)?;
    }
    key.hash = hash.ok_or("sha256")?;
    key.owner = owner.ok_or("owner")?;
    Ok(KeptKey { key, used })
}
