//! An open loop: calls begin at moments that are fixed beforehand, whatever became of those before, and each is timed from its
//! moment on. So neither a server that falls behind nor whoever asks can hide it.

use std::fs::File;
use std::future::pending;
use std::io::ErrorKind;
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create, timerfd_settime,
};
use tokio::net::unix::pipe::Receiver;
use tollgate::decide::ports::Clock as _;
use tollgate::domain::time::Micros;
use tollgate::server::SystemClock;

use super::connection::{Connection, Question};
use super::message::Answer;
use super::{Seen, tally};
use crate::figures::Tally;

/// Questions that are closer to each other are begun together, so much of them at most.
const TICK_MIN: Micros = Micros(50);

/// Questions under way at most. Those that are due beyond wait for a place, and that counts.
const UNDER_WAY_MAX: usize = 1_000;

/// Asks so many times a second (more than once) for so long, evenly, in turns on these connections, what `question` makes.
pub(crate) async fn ask<A: Answer>(
    connections: &[Connection<A>],
    rate: u32,
    length: Duration,
    question: impl Fn() -> Question,
    clock: SystemClock,
) -> Result<Tally, String> {
    if rate < 2 {
        return Err("it is so slow that nothing can be asked at a part of its rate".to_owned());
    }
    let rate = u64::from(rate);
    let number = Micros::from(length).0 * rate / MICROS_PER_SECOND;
    let asking = async {
        let timer = Timer::every(Micros(MICROS_PER_SECOND / rate).max(TICK_MIN))?;
        let mut calls = FuturesUnordered::new();
        let mut connections = connections.iter().cycle();
        let (mut seen, mut begun) = (Seen::default(), 0);
        let start = clock.steady();
        while begun < number || !calls.is_empty() {
            let now = tokio::select! {
                // None: what is under way has ended, and the next one is not due yet.
                Some(ended) = calls.next() => {
                    let (decisions, due, now) = ended?;
                    seen.add(decisions, due, now);
                    now
                }
                came = tick(&timer, begun < number) => {
                    came?;
                    clock.steady()
                }
            };
            let due_by_now = (now.since(start).0 * rate / MICROS_PER_SECOND).min(number);
            while begun < due_by_now && calls.len() < UNDER_WAY_MAX {
                begun += 1;
                let due = start + Micros(begun * MICROS_PER_SECOND / rate);
                let connection = connections.next().ok_or("there is no connection")?;
                calls.push(call(connection, question(), due, clock));
            }
        }
        Ok(seen)
    };
    tally(asking, clock, length).await
}

const MICROS_PER_SECOND: u64 = 1_000_000;

/// How many decisions were given, when they were due to be asked for, and when they came.
async fn call<A: Answer>(
    connection: &Connection<A>,
    question: Question,
    due: Micros,
    clock: SystemClock,
) -> Result<(u64, Micros, Micros), String> {
    let decisions = connection.ask(question).await?;
    Ok((decisions, due, clock.steady()))
}

/// The next tick, if there is anything left to begin.
async fn tick(timer: &Timer, more: bool) -> Result<(), String> {
    if more { timer.tick().await } else { pending().await }
}

/// A timer of the kernel's, since those of tokio are a millisecond apart at least. It is read as a pipe is.
struct Timer(Receiver);

impl Timer {
    /// One that ticks so often; below a second.
    fn every(interval: Micros) -> Result<Self, String> {
        let nanos = i64::try_from(interval.0 * 1_000).map_err(|error| format!("{interval}: {error}"))?;
        let interval = Timespec { tv_sec: 0, tv_nsec: nanos };
        let spacing = Itimerspec { it_interval: interval, it_value: interval };
        let flags = TimerfdFlags::CLOEXEC | TimerfdFlags::NONBLOCK;
        let timer = timerfd_create(TimerfdClockId::Monotonic, flags).and_then(|timer| {
            timerfd_settime(&timer, TimerfdTimerFlags::empty(), &spacing)?;
            Ok(timer)
        });
        let timer = timer.map_err(|error| format!("there is no timer: {error}"))?;
        let timer = Receiver::from_file_unchecked(File::from(timer));
        Ok(Self(timer.map_err(|error| format!("the timer cannot be awaited: {error}"))?))
    }

    /// Waits until it has ticked, however often, since it was waited for.
    async fn tick(&self) -> Result<(), String> {
        loop {
            self.0.readable().await.map_err(|error| format!("the timer ended: {error}"))?;
            match self.0.try_read(&mut [0; 8]) {
                Ok(_) => return Ok(()),
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Err(error) => return Err(format!("the timer cannot be read: {error}")),
            }
        }
    }
}
