//! An open loop: calls begin at moments that are fixed beforehand, whatever became of those before, and each is timed from its
//! moment on. So neither a server that falls behind nor whoever asks can hide it.

use std::thread;
use std::time::Duration;

use http::uri::PathAndQuery;
use prost::bytes::Bytes;
use rustix::io::Errno;
use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create, timerfd_settime,
};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tollgate::decide::ports::Clock as _;
use tollgate::domain::time::Micros;
use tollgate::server::SystemClock;
use tonic::Request;
use tonic::client::Grpc;
use tonic::transport::Channel;

use crate::figures::Tally;
use crate::load::message::{Answer, Lean, Prepared};
use crate::load::{Seen, refused, tally};

/// Asks every `interval` (below a second) for so long, in turns on these connections, with messages that `message` makes.
pub(crate) async fn ask<A: Answer>(
    channels: &[Channel],
    interval: Micros,
    length: Duration,
    message: impl Fn() -> Bytes,
    clock: SystemClock,
) -> Result<Tally, String> {
    let number = Micros::from(length).0 / interval.0;
    let asking = async {
        let start = clock.steady();
        let mut ticks = ticks(interval)?;
        let mut calls = JoinSet::new();
        let mut channels = channels.iter().cycle();
        let mut begun = 0;
        while begun < number {
            let came = ticks.recv().await.ok_or("the timer ended")?;
            let came = came.map_err(|error| format!("the timer cannot be read: {error}"))?;
            for _ in 0..came.min(number - begun) {
                begun += 1;
                let due = start + Micros(begun * interval.0);
                let channel = channels.next().ok_or("there is no connection")?;
                calls.spawn(call::<A>(channel.clone(), message(), due, clock));
            }
        }
        let mut seen = Seen::default();
        while let Some(ended) = calls.join_next().await {
            let (answer, due, now) = ended.map_err(|error| format!("a call was not made: {error}"))??;
            seen.add(&answer, due, now)?;
        }
        Ok(seen)
    };
    tally(asking, clock, length).await
}

/// The answer, when it was due to be asked for, and when it came.
async fn call<A: Answer>(
    channel: Channel,
    message: Bytes,
    due: Micros,
    clock: SystemClock,
) -> Result<(A, Micros, Micros), String> {
    let mut client = Grpc::new(channel);
    client.ready().await.map_err(|error| format!("the connection broke: {error}"))?;
    let request = Request::new(Prepared { id: None, rest: message });
    let answer = client.unary(request, PathAndQuery::from_static(A::PATH), Lean::<A>::default()).await;
    let now = clock.steady();
    Ok((answer.map_err(|status| refused(&status))?.into_inner(), due, now))
}

/// Moments at the same distance of each other, which is below a second: how many have come since the last that was told. By a
/// timer of the kernel's, since those of tokio are a millisecond apart at least.
fn ticks(interval: Micros) -> Result<mpsc::Receiver<Result<u64, Errno>>, String> {
    let nanos = i64::try_from(interval.0 * 1_000).map_err(|error| format!("{interval}: {error}"))?;
    let interval = Timespec { tv_sec: 0, tv_nsec: nanos };
    let spacing = Itimerspec { it_interval: interval, it_value: interval };
    let timer = timerfd_create(TimerfdClockId::Monotonic, TimerfdFlags::CLOEXEC).and_then(|timer| {
        timerfd_settime(&timer, TimerfdTimerFlags::empty(), &spacing)?;
        Ok(timer)
    });
    let timer = timer.map_err(|error| format!("there is no timer: {error}"))?;
    // The timer goes on counting while one is not taken yet.
    let (sender, receiver) = mpsc::channel(1);
    thread::spawn(move || {
        loop {
            let mut count = [0; 8];
            let came = rustix::io::read(&timer, &mut count).map(|_| u64::from_ne_bytes(count));
            let is_last = came.is_err();
            // Nobody listens any more.
            if sender.blocking_send(came).is_err() || is_last {
                return;
            }
        }
    });
    Ok(receiver)
}
