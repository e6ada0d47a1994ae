//! A network that a test breaks: it stands before a server, and carries, delays or swallows what is said, or hangs up.

use std::net::Ipv4Addr;
use std::time::Duration;

use tokio::io::{self, AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep_until};

/// How much may be on its way.
const PARTS_MAX: usize = 1_000;

/// What becomes of what is said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Carries {
    /// It comes at once.
    All,
    /// It comes so much later, either way.
    Late(Duration),
    /// It does not come before something else holds; connections stay.
    Nothing,
    /// Connections end, and new ones at once.
    HangsUp,
}

/// The network; it ends with the test.
pub(crate) struct Proxy {
    port: u16,
    state: watch::Sender<State>,
    task: JoinHandle<()>,
}

#[derive(Clone, Copy)]
struct State {
    carries: Carries,
    /// The port of the server behind it.
    to: u16,
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.task.abort();
        self.set(Carries::HangsUp);
    }
}

impl Proxy {
    /// Starts one that leads to this port of the loopback, and carries all.
    pub(crate) async fn start(to: u16) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("there are free ports");
        let port = listener.local_addr().expect("it is bound").port();
        let (state, seen) = watch::channel(State { carries: Carries::All, to });
        let task = tokio::spawn(async move {
            while let Ok((near, _)) = listener.accept().await {
                // Whoever hangs up in the middle is what this is for.
                tokio::spawn(connect(near, seen.clone()));
            }
        });
        Self { port, state, task }
    }

    /// How clients of Redis reach it.
    pub(crate) fn url(&self) -> String {
        format!("redis://127.0.0.1:{}/", self.port)
    }

    /// So from now on.
    pub(crate) fn set(&self, carries: Carries) {
        self.state.send_modify(|state| state.carries = carries);
    }

    /// Leads to another server from now on; connections to the one before end.
    pub(crate) fn lead_to(&self, to: u16) {
        self.state.send_modify(|state| state.to = to);
    }
}

async fn connect(near: TcpStream, mut state: watch::Receiver<State>) -> io::Result<()> {
    let State { carries, to } = *state.borrow();
    if carries == Carries::HangsUp {
        return Ok(());
    }
    let far = TcpStream::connect((Ipv4Addr::LOCALHOST, to)).await?;
    let ((near_out, near_in), (far_out, far_in)) = (near.into_split(), far.into_split());
    let ends = state.clone();
    tokio::select! {
        ended = carry(near_out, far_in, ends.clone()) => ended,
        ended = carry(far_out, near_in, ends) => ended,
        _ = state.wait_for(|state| state.carries == Carries::HangsUp || state.to != to) => Ok(()),
    }
}

/// Each part on its own time: what is late does not hold up what comes behind it.
async fn carry(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, mut state: watch::Receiver<State>) -> io::Result<()> {
    let (parts, mut on_their_way) = mpsc::channel::<(Instant, Vec<u8>)>(PARTS_MAX);
    let now = state.clone();
    let reads = async move {
        let mut bytes = vec![0; 64 * 1024];
        loop {
            let length = from.read(&mut bytes).await?;
            let late = if let Carries::Late(by) = now.borrow().carries { by } else { Duration::ZERO };
            if length == 0 || parts.send((Instant::now() + late, bytes[..length].to_vec())).await.is_err() {
                return io::Result::Ok(());
            }
        }
    };
    let writes = async move {
        while let Some((at, bytes)) = on_their_way.recv().await {
            sleep_until(at).await;
            if state.wait_for(|state| state.carries != Carries::Nothing).await.is_err() {
                break;
            }
            to.write_all(&bytes).await?;
        }
        io::Result::Ok(())
    };
    tokio::try_join!(reads, writes).map(|_| ())
}
