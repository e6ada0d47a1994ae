//! Who comes first, tried out: the very code of the table, with a scheduler in place of chance at each access to memory.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]
#![allow(dead_code, reason = "not all of the table is needed here")]

use std::sync::Arc;

use shuttle::sync::Mutex;
use shuttle::thread;

use self::table::{Filling, Kept, Marks};
use crate::domain::revocation::{Cutoff, Mark, MarkId, TargetKind};
use crate::domain::time::Micros;

mod sync {
    //! The same by the scheduler's own.

    pub(super) use shuttle::sync::atomic::{AtomicU64, Ordering};

    use super::{Arc, Mutex};

    pub(super) type Loaded<T> = Arc<T>;

    pub(super) struct Swap<T>(Mutex<Arc<T>>);

    impl<T> Swap<T> {
        pub(super) fn from_pointee(value: T) -> Self {
            Self(Mutex::new(Arc::new(value)))
        }

        pub(super) fn load(&self) -> Arc<T> {
            Arc::clone(&self.0.lock().unwrap())
        }

        pub(super) fn store(&self, value: Arc<T>) {
            *self.0.lock().unwrap() = value;
        }
    }
}

#[path = "table.rs"]
#[expect(clippy::duplicate_mod, reason = "the same code, by another scheduler")]
mod table;

/// Schedules that are tried in each test.
const SCHEDULES: usize = 1_000;

/// Marks that share a tag, by pairs, so that ids decide; all in one table, and near each other.
fn mark(number: u64) -> Mark {
    let half = u128::from(number).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    let id = MarkId((half << 64 | half).to_be_bytes());
    Mark { kind: TargetKind::Session, id, tag: number / 2 }
}

/// What belongs to a mark and to no other.
fn kept(number: u64) -> Kept {
    Kept::new(TargetKind::Session, Cutoff { before: Some(Micros::from_secs(number)), until: None }, true)
}

fn check(test: impl Fn() + Send + Sync + 'static) {
    shuttle::check_pct(test, SCHEDULES, 3);
}

#[test]
fn nobody_sees_a_half_of_an_entry() {
    check(|| {
        let marks = Arc::new(Marks::new());
        let readers: Vec<_> = (0..2)
            .map(|_| {
                let marks = Arc::clone(&marks);
                thread::spawn(move || {
                    for number in 0..4 {
                        let seen = marks.find(&mark(number));
                        assert!(seen.is_gone() || seen == kept(number), "{number}: {seen:?}");
                    }
                })
            })
            .collect();
        let mut filling = Filling::new();
        for number in 0..4 {
            // The next one has the same tag, and must not come into its place.
            marks.put(&mut filling, &mark(number), kept(number));
            marks.put(&mut filling, &mark(number), if number == 2 { Kept::GONE } else { kept(number) });
        }
        for reader in readers {
            reader.join().unwrap();
        }
    });
}

#[test]
fn what_is_there_is_found_while_tables_grow_and_others_go() {
    check(|| {
        let marks = Arc::new(Marks::new());
        let mut filling = Filling::new();
        for number in 0..6 {
            marks.put(&mut filling, &mark(number), kept(number));
        }
        // Said only once it is there.
        let said = Arc::new(Mutex::new(vec![0, 2, 4]));
        let readers: Vec<_> = (0..2)
            .map(|_| {
                let (marks, said) = (Arc::clone(&marks), Arc::clone(&said));
                thread::spawn(move || {
                    let there = said.lock().unwrap().clone();
                    for number in there {
                        assert_eq!(marks.find(&mark(number)), kept(number), "{number}");
                        assert_eq!(marks.in_use(), 1 << TargetKind::Session.index());
                    }
                })
            })
            .collect();
        for (goes, comes) in [(1, 6), (3, 7), (5, 8)] {
            marks.put(&mut filling, &mark(goes), Kept::GONE);
            marks.put(&mut filling, &mark(comes), kept(comes));
            said.lock().unwrap().push(comes);
        }
        for reader in readers {
            reader.join().unwrap();
        }
    });
}

#[test]
fn a_cutoff_changes_whole() {
    check(|| {
        let marks = Arc::new(Marks::new());
        let mut filling = Filling::new();
        marks.put(&mut filling, &mark(1), kept(5));
        let reader = {
            let marks = Arc::clone(&marks);
            thread::spawn(move || {
                let seen = [marks.find(&mark(1)), marks.find(&mark(1))];
                assert!(seen[1] == kept(9) || seen == [kept(5); 2], "{seen:?}");
            })
        };
        marks.put(&mut filling, &mark(1), kept(9));
        reader.join().unwrap();
    });
}
