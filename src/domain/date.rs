//! Dates as people write them: `2027-01-31`, or `2027-01-31T12:00:00Z` (RFC 3339). UTC only, in whole seconds.

use super::time::Micros;

const DAY_SECS: u64 = 24 * 60 * 60;

/// The last second that has a date of four digits for its year: the end of 9999.
const LAST_SECS: u64 = 253_402_300_799;

/// Reads a date: its first moment, since the Unix epoch. None before that, and no year beyond 9999.
pub fn parse(text: &str) -> Option<Micros> {
    let (date, time) = match text.split_once('T') {
        Some((date, time)) => (date, time.strip_suffix('Z')?),
        None => (text, "00:00:00"),
    };
    let [year, month, day] = numbers(date, '-', [4, 2, 2])?;
    let [hour, minute, second] = numbers(time, ':', [2, 2, 2])?;
    let days = days_since_epoch(year, month, day)?;
    let secs = days * DAY_SECS + hour * 3_600 + minute * 60 + second;
    (hour < 24 && minute < 60 && second < 60).then_some(Micros::from_secs(secs))
}

/// A moment since the Unix epoch, to the second: `2027-01-31T12:00:00Z`.
pub fn written(moment: Micros) -> String {
    let secs = moment.as_secs().min(LAST_SECS);
    let (days, time) = (secs / DAY_SECS, secs % DAY_SECS);
    // Howard Hinnant, "chrono-Compatible Low-Level Date Algorithms": years begin in March, so that a leap day is the last.
    let since = days + 719_468;
    let (era, day_of_era) = (since / 146_097, since % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    let (hour, minute, second) = (time / 3_600, time / 60 % 60, time % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z")
}

/// Three numbers of so many digits each.
fn numbers(text: &str, between: char, digits: [usize; 3]) -> Option<[u64; 3]> {
    let mut parts = text.split(between);
    let mut read = [0; 3];
    for (number, digits) in read.iter_mut().zip(digits) {
        let part =
            parts.next().filter(|part| part.len() == digits && part.bytes().all(|byte| byte.is_ascii_digit()))?;
        *number = part.parse().ok()?;
    }
    parts.next().is_none().then_some(read)
}

fn days_since_epoch(year: u64, month: u64, day: u64) -> Option<u64> {
    let is_leap = year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400));
    let longest = match month {
        1 | 3 | 5 | 7 | 8 | 10 | 12 => 31,
        4 | 6 | 9 | 11 => 30,
        2 if is_leap => 29,
        2 => 28,
        _ => return None,
    };
    if year < 1970 || !(1..=longest).contains(&day) {
        return None;
    }
    let year = if month <= 2 { year - 1 } else { year };
    let (era, year_of_era) = (year / 400, year % 400);
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    (era * 146_097 + day_of_era).checked_sub(719_468)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn dates_are_read_and_written_as_rfc_3339_has_them() {
        for (text, secs) in [
            ("1970-01-01T00:00:00Z", 0),
            ("2000-02-29T23:59:59Z", 951_868_799),
            ("2026-11-24T21:15:56Z", 1_795_554_956),
            ("9999-12-31T23:59:59Z", LAST_SECS),
        ] {
            assert_eq!(parse(text), Some(Micros::from_secs(secs)), "{text}");
            assert_eq!(written(Micros::from_secs(secs)), text);
        }
        assert_eq!(parse("2026-11-24"), parse("2026-11-24T00:00:00Z"));
        assert_eq!(written(Micros(u64::MAX)), "9999-12-31T23:59:59Z");
    }

    #[test]
    fn what_is_no_date_is_refused() {
        for text in [
            "",
            "2026",
            "2026-11",
            "2026-13-01",
            "2026-00-01",
            "2026-02-29",
            "2100-02-29",
            "2026-04-31",
            "2026-11-00",
            "1969-12-31",
            "26-11-24",
            "2026-11-24T",
            "2026-11-24T12:00Z",
            "2026-11-24T12:00:00",
            "2026-11-24T24:00:00Z",
            "2026-11-24T12:60:00Z",
            "2026-11-24T12:00:60Z",
            "2026-11-24T12:00:00+01:00",
            "2026-11-24t12:00:00z",
            "2026-11-24 12:00:00Z",
            "2026-11-24-01",
            "+026-11-24",
            "10000-01-01",
        ] {
            assert_eq!(parse(text), None, "{text}");
        }
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_back(secs in 0..=LAST_SECS) {
            prop_assert_eq!(parse(&written(Micros::from_secs(secs))), Some(Micros::from_secs(secs)));
        }

        #[test]
        fn any_text_has_an_answer(text in "[0-9TZ:-]{0,24}") {
            let _ = parse(&text);
        }
    }
}
