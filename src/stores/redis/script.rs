//! Scripts, and one call of a script.

use ::redis::aio::{ConnectionLike as _, MultiplexedConnection};
use ::redis::{Cmd, ErrorKind, Pipeline, RedisError, Script, ServerErrorKind, Value, cmd};

use super::cause_of;
use crate::decide::ports::AwayCause;

/// A script and its digest.
pub(super) struct Code {
    text: &'static str,
    digest: String,
    /// Whether it is run before the server is known to have the data that was charged before.
    pub(super) tells: bool,
}

impl Code {
    pub(super) fn new(text: &'static str) -> Self {
        Self { text, digest: Script::new(text).get_hash().to_owned(), tells: false }
    }

    /// One that tells a server what it may not know.
    pub(super) fn telling(text: &'static str) -> Self {
        Self { tells: true, ..Self::new(text) }
    }
}

/// One script call's keys and arguments.
#[derive(Default)]
pub(super) struct Call {
    pub(super) keys: Vec<Vec<u8>>,
    /// How many of the keys, the last ones, the script can do without.
    pub(super) spare: usize,
    pub(super) args: Vec<Vec<u8>>,
}

/// How a call is put to a server.
#[derive(Clone, Copy)]
pub(super) struct Manner {
    /// With the keys that the script can do without.
    pub(super) whole: bool,
    /// To a server that takes over the keys' slot and has not got it yet.
    pub(super) asking: bool,
}

impl Call {
    /// What the script answers; of several answers some may be errors. It is run by its digest where the server knows it.
    pub(super) async fn run(
        &self,
        code: &Code,
        manner: Manner,
        connection: &mut MultiplexedConnection,
    ) -> Result<Value, RedisError> {
        match send(self.command("EVALSHA", &code.digest, manner), manner, connection).await {
            // The server remembers it then.
            Err(error) if error.kind() == ErrorKind::Server(ServerErrorKind::NoScript) => {
                send(self.command("EVAL", code.text, manner), manner, connection).await
            }
            outcome => outcome,
        }
    }

    fn command(&self, name: &str, script: &str, manner: Manner) -> Cmd {
        let spare = if manner.whole { 0 } else { self.spare };
        let keys = self.keys.get(..self.keys.len().saturating_sub(spare)).unwrap_or_default();
        let mut command = cmd(name);
        command.arg(script).arg(keys.len());
        for part in keys.iter().chain(&self.args) {
            command.arg(part.as_slice());
        }
        command
    }
}

async fn send(command: Cmd, manner: Manner, connection: &mut MultiplexedConnection) -> Result<Value, RedisError> {
    if !manner.asking {
        return match connection.req_packed_command(&command).await? {
            Value::ServerError(error) => Err(error.into()),
            answer => Ok(answer),
        };
    }
    // It holds for the next command on the connection, so nothing may come in between.
    let mut both = Pipeline::with_capacity(2);
    both.cmd("ASKING").add_command(command);
    let mut answers = connection.req_packed_commands(&both, 0, 2).await?.into_iter();
    match (answers.next(), answers.next()) {
        (Some(Value::ServerError(error)), _) | (_, Some(Value::ServerError(error))) => Err(error.into()),
        (_, answer) => Ok(answer.unwrap_or(Value::Nil)),
    }
}

/// What is the matter with a server that refuses each of several questions, whatever was asked: with one error of theirs.
pub(super) fn refused_all(answer: &Value) -> Option<RedisError> {
    let Value::Array(answers) = answer else { return None };
    let errors = answers.iter().map(|answer| match answer {
        Value::ServerError(error) => Some(RedisError::from(error.clone())),
        _ => None,
    });
    let errors: Vec<RedisError> = errors.collect::<Option<_>>()?;
    let mut causes = errors.iter().map(cause_of);
    let first = causes.next().filter(|cause| *cause != AwayCause::Garbled)?;
    causes.all(|cause| cause == first).then_some(())?;
    errors.into_iter().next()
}
