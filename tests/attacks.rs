//! Every attack of the list in the files beside this one, run against a whole service over real sockets, and held to
//! docs/threats.md.

mod catalogue;
mod floods;
mod page;
mod recipe;

use std::collections::{BTreeSet, HashMap};

use serde_json::{Map, Value, json};
use tollgate::proto as pb;
use tollgate::proto::decision_service_client::DecisionServiceClient;
use tonic::Code;
use tonic::transport::Channel;

use self::catalogue::{Answers, Attack, IssuerOf, OwnIssuer, PublishedKey, ShownAs, Try};
use self::recipe::{NOW, Recipe, Signers, changed, good_claims};
use crate::support::liar::{Liar, Says};
use crate::support::server::{TestClock, Tollgate, question};
use crate::support::signer::Signer;

/// Where no token may ever lead anybody.
const TRAP: &str = "/trap";

/// Where all calls go.
const HOST: &str = "api.example";

/// Attacks that this project promised to know at the least: 1 to this.
const ATTACKS_PROMISED: u16 = 126;

/// The keys of the list.
fn signers() -> Signers {
    Signers(HashMap::from([
        ("k", Signer::ec("k")),
        ("l", Signer::ec384("l")),
        ("m", Signer::ed("m")),
        ("r", Signer::rsa("r", 0)),
        ("r2", Signer::rsa("r2", 1)),
        ("thief", Signer::ec("thief")),
        // Of another issuer: one with a name of its own, and one with a name that the usual issuer has, too.
        ("b", Signer::ec("b")),
        ("other k", Signer::ec("k")),
        // Of callers, who prove that they hold them.
        ("holder", Signer::ec("holder")),
        ("other holder", Signer::ed("other holder")),
    ]))
}

/// The issuers that tries share: name, `iss`, keys, settings.
fn shared_issuers() -> Vec<(&'static str, &'static str, &'static [&'static str], Value)> {
    vec![
        ("usual", "https://issuer.example/realms/a", &["k", "l", "m", "r"], json!({})),
        ("other", "https://b.example", &["b", "other k"], json!({})),
        ("strict", "https://strict.example", &["k"], json!({"types": ["at+jwt"]})),
    ]
}

const RULES: &str = r"
limits:
  each-subject: { units: 1000, window: 1m, by: [identity.subject] }
rules:
  - match: { path: /public/** }
    permit: anyone
  - match: { path: /admin/** }
    require: { roles: [ADMIN] }
  - match: { path: /scoped/** }
    require: { scopes: [admin] }
  - match: { path: /counted/** }
    limits: [each-subject]
  - match: { path: /me }
";

/// A service with all issuers of the list, and the web server that lies to it.
struct World {
    signers: Signers,
    liar: Liar,
    issuers: Vec<Value>,
}

impl World {
    async fn new() -> Self {
        let (signers, liar) = (signers(), Liar::start().await);
        liar.says(TRAP, Says::Status(404));
        let shared = shared_issuers().into_iter().map(|(_, iss, keys, settings)| {
            let keys: Vec<Value> = keys.iter().map(|name| signers.get(name).jwk()).collect();
            with_defaults(json!({"issuer": iss, "jwks": {"keys": keys}}), settings.as_object())
        });
        let issuers = shared.collect();
        Self { signers, liar, issuers }
    }

    /// The `iss` of a try's issuer, who is put into the configuration where it is the try's own.
    fn issuer(&mut self, place: &str, issuer: &IssuerOf) -> String {
        match issuer {
            IssuerOf::Shared(name) => {
                let found = shared_issuers().into_iter().find(|(known, ..)| known == name);
                let (_, iss, ..) = found.unwrap_or_else(|| panic!("no issuer {name}"));
                iss.to_owned()
            }
            IssuerOf::Own(own) => self.own_issuer(place, own),
        }
    }

    fn own_issuer(&mut self, place: &str, own: &OwnIssuer) -> String {
        if let Some(answers) = &own.introspection {
            return self.asked_issuer(place, answers, &own.settings);
        }
        let keys_path = format!("/keys/{place}");
        let set = || match &own.keys {
            None => vec![self.signers.get("k").jwk()],
            // A set in which nothing can be used is another matter: one more key is for nobody's tokens here.
            Some(keys) => keys.iter().map(|key| self.published(key)).chain([self.signers.get("r2").jwk()]).collect(),
        };
        let says = own.serves.clone().unwrap_or_else(|| Says::Text(json!({"keys": set()}).to_string()));
        let says = match says {
            Says::Redirect(to) => Says::Redirect(to.replace("{base}", &self.liar.url(""))),
            says => says,
        };
        self.liar.says(&keys_path, says);
        let (iss, issuer) = match &own.metadata {
            None => {
                let iss = format!("https://{place}.example");
                (iss.clone(), json!({"issuer": iss, "jwks": {"url": self.liar.url(&keys_path)}}))
            }
            Some(metadata) => {
                let iss = self.liar.url(&format!("/realms/{place}"));
                let honest = json!({"issuer": iss, "jwks_uri": self.liar.url(&keys_path)});
                let mut told = honest.as_object().cloned().unwrap_or_default();
                told.extend(metadata.clone());
                let told = Value::Object(told).to_string();
                let told = told.replace("{base}", &self.liar.url("")).replace("{issuer}", &iss);
                self.liar.says(&format!("/realms/{place}/.well-known/openid-configuration"), Says::Text(told));
                (iss.clone(), json!({"issuer": iss}))
            }
        };
        self.issuers.push(with_defaults(issuer, Some(&own.settings)));
        iss
    }

    /// One that is asked about its tokens, which begin with `place` and a tilde.
    fn asked_issuer(&mut self, place: &str, answers: &Answers, settings: &Map<String, Value>) -> String {
        let iss = format!("https://{place}.example");
        let path = format!("/introspect/{place}");
        let says = match answers {
            Answers::Serves(says) => says.clone(),
            Answers::Active(claims) => {
                let mut answer = changed(good_claims(&iss), &self.signers.resolved_in(claims), &[]);
                answer["active"] = json!(true);
                Says::Text(answer.to_string())
            }
        };
        self.liar.says(&path, says);
        let introspection = json!({
            "url": self.liar.url(&path), "client_id": "tollgate", "client_secret": "secret", "prefix": format!("{place}~"),
        });
        self.issuers.push(with_defaults(json!({"issuer": iss, "introspection": introspection}), Some(settings)));
        iss
    }

    fn published(&self, key: &PublishedKey) -> Value {
        let known = |name: &str| self.signers.get(name).jwk();
        match key {
            PublishedKey::Whole(name) => known(name),
            PublishedKey::Literal { jwk } => jwk.clone(),
            PublishedKey::Changed { of, with, without } => {
                let mut jwk = known(of);
                let members = jwk.as_object_mut().expect("a key is an object");
                members.extend(with.clone());
                members.retain(|name, _| !without.contains(name));
                jwk
            }
        }
    }

    /// JSON is YAML.
    fn configuration(&self) -> String {
        format!("issuers: {}\n{RULES}", Value::Array(self.issuers.clone()))
    }
}

fn with_defaults(mut issuer: Value, settings: Option<&Map<String, Value>>) -> Value {
    issuer["audiences"] = json!(["orders"]);
    issuer.as_object_mut().expect("it is one").extend(settings.cloned().unwrap_or_default());
    issuer
}

/// A try that is ready to be made.
struct Prepared {
    /// Which one, for people.
    name: String,
    question: pb::DecideRequest,
    /// The answers, each time that it is asked.
    expect: Vec<String>,
}

fn prepare(world: &mut World, attack: &Attack, index: usize, asked: &Try, recipe: &Recipe) -> Prepared {
    let place = format!("attack-{}-{index}", attack.id);
    let iss = world.issuer(&place, &asked.issuer);
    let token = recipe.token(&iss, &world.signers).replace("{base}", &world.liar.url("")).replace("{place}", &place);
    let method = asked.method.as_deref().unwrap_or("GET");
    let path = asked.path.as_deref().unwrap_or("/me");
    let url = format!("https://{HOST}{path}");
    let proofs = asked.proofs.iter().enumerate();
    let proofs =
        proofs.map(|(nth, proof)| proof.proof(&token, &url, &format!("{place}-{nth}"), &world.signers)).collect();
    let kind = match &asked.shown_as {
        ShownAs::Bearer => pb::credential::Kind::BearerToken(token),
        ShownAs::ApiKey => pb::credential::Kind::ApiKey(token),
        ShownAs::Authorization(value) => pb::credential::Kind::Authorization(value.replace("{token}", &token)),
    };
    let mut question = question(method, path, None);
    HOST.clone_into(&mut question.request.get_or_insert_default().host);
    question.credential = Some(pb::Credential { kind: Some(kind), dpop_proofs: proofs, ..pb::Credential::default() });
    let expect = [&asked.expect].into_iter().chain(&asked.again).cloned().collect();
    Prepared { name: format!("{}, try {index}: {}", attack.id, attack.aim), question, expect }
}

/// What comes of a question, in the words of the list.
async fn outcome(client: &mut DecisionServiceClient<Channel>, question: pb::DecideRequest) -> String {
    match client.decide(question).await.map(tonic::Response::into_inner) {
        Ok(answer) if answer.allowed => "allow".to_owned(),
        Ok(answer) => answer.detail,
        Err(status) if status.code() == Code::InvalidArgument => "not well-formed".to_owned(),
        Err(status) => panic!("{status:?}"),
    }
}

/// The tries that do not end as they should.
async fn surprises(attacks: &[Attack]) -> Vec<String> {
    let mut world = World::new().await;
    let mut prepared = Vec::new();
    for attack in attacks {
        for (index, (asked, recipe)) in attack.tries().into_iter().enumerate() {
            prepared.push(prepare(&mut world, attack, index, &asked, &recipe));
        }
    }
    let tollgate = Tollgate::start_with(&world.configuration(), TestClock::at(NOW)).await;
    let mut client = tollgate.decisions().await;
    let mut surprises = Vec::new();
    for Prepared { name, question, expect } in prepared {
        let shown: String = format!("{:?}", question.credential).chars().take(120).collect();
        for expect in expect {
            let came = outcome(&mut client, question.clone()).await;
            if came != expect {
                surprises.push(format!("{name}: {came} instead of {expect}\n    {shown}"));
            }
        }
    }
    assert_eq!(world.liar.visits(TRAP), 0, "somebody went where a token told them to");
    surprises
}

fn all() -> Vec<Attack> {
    catalogue::read().into_iter().flat_map(|section| section.attacks).collect()
}

#[tokio::test]
async fn every_attack_ends_as_the_list_says() {
    let surprises = surprises(&all()).await;
    assert!(surprises.is_empty(), "{} surprises:\n{}", surprises.len(), surprises.join("\n"));
}

#[test]
fn no_configuration_of_the_list_is_accepted() {
    for attack in all() {
        for refused in &attack.refused {
            match tollgate::config::parse(&refused.yaml, "test.yaml", &|_| None) {
                Ok(_) => panic!("{}: accepted:\n{}", attack.id, refused.yaml),
                Err(problems) => {
                    let said = problems.to_string();
                    assert!(said.contains(&refused.says), "{}: says {said} and not {}", attack.id, refused.says);
                }
            }
        }
    }
}

#[test]
fn the_list_is_whole_and_says_of_each_attack_what_shows_it() {
    let attacks = all();
    let ids: BTreeSet<u16> = attacks.iter().map(|attack| attack.id).collect();
    let missing: Vec<u16> = (1..=ATTACKS_PROMISED).filter(|id| !ids.contains(id)).collect();
    assert!(missing.is_empty(), "not in the list: {missing:?}");
    assert_eq!(ids.len(), attacks.len(), "an attack is there twice");
    for attack in &attacks {
        let shows = !attack.tries().is_empty() || !attack.refused.is_empty() || !attack.shown.is_empty();
        assert!(shows || attack.not_yet.is_some(), "nothing shows attack {}", attack.id);
        for test in &attack.shown {
            assert!(page::is_test(test), "{}: there is no test `{test}`", attack.id);
        }
    }
}

#[tokio::test]
async fn an_attack_that_succeeds_is_noticed() {
    let attack = |expect: &str| -> Attack {
        serde_json::from_value(json!({
            "id": 1, "attack": "a", "answer": "b",
            "tries": [{"claims": {"exp": {"now": -61}}, "expect": "expired"}, {"expect": expect}],
        }))
        .expect("it is an attack")
    };
    assert_eq!(surprises(&[attack("allow")]).await, [""; 0]);
    let noticed = surprises(&[attack("expired")]).await;
    assert!(noticed.len() == 1 && noticed[0].starts_with("1, try 1: a: allow instead of expired"), "{noticed:?}");
}
