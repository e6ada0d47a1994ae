//! Accepts connections, and bears with what keeps them from being accepted.

use std::io;
use std::time::Duration;

use futures_util::Stream;
use futures_util::stream::unfold;
use tokio::net::{TcpListener, TcpStream};
use tokio::time::sleep;

/// How long nothing is accepted after that failed. Without open files to spare it fails at once, again and again.
const PAUSE: Duration = Duration::from_millis(100);

/// The connections to `listener`, without end.
pub(super) fn connections(listener: TcpListener) -> impl Stream<Item = io::Result<TcpStream>> {
    unfold((listener, false), |(listener, mut said)| async move {
        loop {
            match listener.accept().await {
                // One whose options cannot be set is gone already.
                Ok((connection, _)) if connection.set_nodelay(true).is_err() => {}
                Ok((connection, _)) => return Some((Ok(connection), (listener, false))),
                Err(error) if is_the_peers(&error) => {}
                Err(error) => {
                    if !said {
                        tracing::warn!(%error, "no connections are accepted for the moment");
                        said = true;
                    }
                    sleep(PAUSE).await;
                }
            }
        }
    })
}

/// Whether only the connection that was to be accepted is lost.
fn is_the_peers(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset)
}
