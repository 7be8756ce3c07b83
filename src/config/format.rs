#![forbid(unsafe_code)]
//! How the values of settings are written and read: sizes, times, lists, choices. Flags, variables
//! and files use the same format.
//!
//! `parse` reads the text that `show` prints back to the same value. An error is the second half of
//! a sentence ("write a time such as 30s"); the setting and its source are printed before it.

use crate::address::Network;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

/// Converts text to a value and back.
#[derive(Clone, Copy)]
pub(super) struct Format<T> {
    /// Placeholder of a value in help, such as `SIZE`.
    pub(crate) shape: &'static str,
    /// Reads a value. The error says what to write instead.
    pub(crate) parse: fn(&str) -> Result<T, String>,
    /// Prints a value; `None` if the setting is not set.
    pub(crate) show: fn(&T) -> Option<String>,
}

/// `true` or `false`.
pub(super) const SWITCH: Format<bool> = Format {
    shape: "BOOL",
    parse: |text| match text {
        "true" => Ok(true),
        "false" => Ok(false),
        _ => Err("write true or false".into()),
    },
    show: |value| Some(value.to_string()),
};

/// A whole number, at least 1.
pub(super) const COUNT: Format<usize> = count();

/// The same for fields of 32 bits.
pub(super) const COUNT_U32: Format<u32> = count();

const fn count<T: TryFrom<u64> + ToString>() -> Format<T> {
    Format { shape: "N", parse: parse_count, show: |value| Some(value.to_string()) }
}

/// A whole number, at least 1, or nothing.
pub(super) const COUNT_OPTIONAL: Format<Option<usize>> = Format {
    shape: "N",
    parse: |text| parse_count(text).map(Some),
    show: |value| value.map(|count| count.to_string()),
};

/// A whole number, at least 1, or `off`.
pub(super) const COUNT_OR_OFF: Format<Option<usize>> = Format {
    shape: "N|off",
    parse: |text| match text {
        "off" => Ok(None),
        _ => parse_count(text)
            .map(Some)
            .map_err(|_| "write a whole number of at least 1, or off".into()),
    },
    show: |value| Some(value.map_or("off".into(), |count: usize| count.to_string())),
};

/// Bytes, at least 1: `256KiB`, `1MiB`, `9600`.
pub(super) const SIZE: Format<usize> =
    Format { shape: "SIZE", parse: parse_size, show: |value| Some(show_size(*value)) };

/// The same for fields of 64 bits.
pub(super) const SIZE_U64: Format<u64> = Format {
    shape: "SIZE",
    parse: |text| parse_size(text).map(|size| size as u64),
    show: |value| Some(show_size(*value as usize)),
};

/// Bytes, at least 1, or `off`.
pub(super) const SIZE_OR_OFF: Format<Option<u64>> = Format {
    shape: "SIZE|off",
    parse: |text| match text {
        "off" => Ok(None),
        _ => parse_size(text)
            .map(|size| Some(size as u64))
            .map_err(|error| format!("{error}, or off")),
    },
    show: |value| Some(value.map_or("off".into(), |size| show_size(size as usize))),
};

/// Bytes that are kept free; `off`, or 0, keeps none. If it is unset, the node chooses.
pub(super) const RESERVE: Format<Option<u64>> = Format {
    shape: "SIZE|off",
    parse: |text| match text {
        "0" | "off" => Ok(Some(0)),
        _ => parse_size(text)
            .map(|size| Some(size as u64))
            .map_err(|error| format!("{error}, or off")),
    },
    show: |value| value.map(|size| if size == 0 { "off".into() } else { show_size(size as usize) }),
};

/// A time over zero: `30s`, `500us`.
pub(super) const DURATION: Format<Duration> = Format {
    shape: "TIME",
    parse: |text| match parse_duration(text)? {
        Duration::ZERO => Err("it has to be over 0: write a time such as 30s, 500us or 1h".into()),
        duration => Ok(duration),
    },
    show: |value| Some(show_duration(*value)),
};

/// A time, zero included.
pub(super) const DURATION_OR_ZERO: Format<Duration> =
    Format { shape: "TIME", parse: parse_duration, show: |value| Some(show_duration(*value)) };

/// A time over zero, or `off`.
pub(super) const DURATION_OR_OFF: Format<Option<Duration>> = Format {
    shape: "TIME|off",
    parse: |text| match text {
        "off" => Ok(None),
        _ => match parse_duration(text) {
            Ok(duration) if !duration.is_zero() => Ok(Some(duration)),
            _ => Err("write a time over 0 such as 30s, or off".into()),
        },
    },
    show: |value| Some(value.map_or("off".into(), show_duration)),
};

/// An IP address and a port; port 0 lets the kernel choose.
pub(super) const ADDRESS: Format<SocketAddr> = Format {
    shape: "IP:PORT",
    parse: |text| {
        text.parse()
            .map_err(|_| "write an IP address and a port, such as 0.0.0.0:8443 or [::]:8443".into())
    },
    show: |value| Some(value.to_string()),
};

/// An IP address and a port, or `off`.
pub(super) const ADDRESS_OR_OFF: Format<Option<SocketAddr>> = Format {
    shape: "IP:PORT|off",
    parse: |text| match text {
        "off" => Ok(None),
        _ => text
            .parse()
            .map(Some)
            .map_err(|_| "write an IP address and a port, such as 127.0.0.1:9464, or off".into()),
    },
    show: |value| Some(value.map_or("off".into(), |address| address.to_string())),
};

/// Text that is not empty.
pub(super) const TEXT: Format<Option<String>> = Format {
    shape: "TEXT",
    parse: |text| filled(text).map(|text| Some(text.to_owned())),
    show: Clone::clone,
};

/// Where a sink is. What it says is checked when it is opened.
pub(super) const URL: Format<Option<String>> = Format { shape: "URL", ..TEXT };

/// A path.
pub(super) const PATH: Format<Option<PathBuf>> = Format {
    shape: "FILE",
    parse: |text| filled(text).map(|text| Some(text.into())),
    show: |value| value.as_ref().map(|path| path.display().to_string()),
};

/// A directory.
pub(super) const DIRECTORY: Format<Option<PathBuf>> = Format { shape: "DIR", ..PATH };

/// Texts separated by commas.
pub(super) const LIST: Format<Option<Vec<String>>> = Format {
    shape: "LIST",
    parse: |text| {
        let items: Vec<String> = text.split(',').map(|item| item.trim().to_owned()).collect();
        match items.iter().any(String::is_empty) {
            true => Err("write one or more values, separated by commas".into()),
            false => Ok(Some(items)),
        }
    },
    show: |value| value.as_ref().map(|items| items.join(",")),
};

/// Networks separated by commas, or `off`.
pub(super) const NETWORKS: Format<Vec<Network>> = Format {
    shape: "LIST|off",
    parse: |text| {
        let parse = |item: &str| {
            let network = Network::parse(item.trim());
            network
                .ok_or_else(|| "write networks such as 10.0.0.0/8,2001:db8::/32, or off".to_owned())
        };
        match text {
            "off" => Ok(Vec::new()),
            _ => text.split(',').map(parse).collect(),
        }
    },
    show: |networks| match networks[..] {
        [] => Some("off".into()),
        _ => Some(networks.iter().map(Network::to_string).collect::<Vec<_>>().join(",")),
    },
};

/// Sample rates in Hz separated by commas, each once.
pub(super) const RATES: Format<Vec<u32>> =
    Format {
        shape: "LIST",
        parse: |text| {
            let mut rates = Vec::new();
            for item in text.split(',') {
                match item.trim().parse::<u32>() {
                    Ok(rate @ 1_000..=384_000) if !rates.contains(&rate) => rates.push(rate),
                    _ => return Err(
                        "write rates from 1000 to 384000 Hz, each once, such as 8000,16000,24000"
                            .into(),
                    ),
                }
            }
            Ok(rates)
        },
        show: |value| Some(value.iter().map(u32::to_string).collect::<Vec<_>>().join(",")),
    };

/// CPU numbers, each once, as in `2-9,12`.
pub(super) const CPUS: Format<Option<Vec<usize>>> = Format {
    shape: "LIST",
    parse: |text| super::cpus::parse(text).map(Some),
    show: |value| value.as_ref().map(|cpus| super::cpus::show(cpus)),
};

/// Reads one of the named `choices`.
pub(super) fn parse_choice<T: Copy>(text: &str, choices: &[(&str, T)]) -> Result<T, String> {
    let found = choices.iter().find(|(name, _)| *name == text);
    found.map(|(_, value)| *value).ok_or_else(|| {
        let names: Vec<&str> = choices.iter().map(|(name, _)| *name).collect();
        format!("write one of {}", names.join(", "))
    })
}

/// The name of `value` among `choices`.
pub(super) fn show_choice<T: Copy + PartialEq>(value: T, choices: &[(&str, T)]) -> Option<String> {
    choices.iter().find(|(_, choice)| *choice == value).map(|(name, _)| (*name).to_owned())
}

/// Bytes in the largest unit that divides them.
pub(super) fn show_size(size: usize) -> String {
    for (unit, factor) in UNITS {
        if size > 0 && size.is_multiple_of(factor) {
            return format!("{}{unit}", size / factor);
        }
    }
    size.to_string()
}

/// A time as written in a configuration file.
pub(crate) fn show_duration(duration: Duration) -> String {
    humantime::format_duration(duration).to_string()
}

/// Largest first, so that printing uses the largest one that divides.
const UNITS: [(&str, usize); 3] = [("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)];

fn parse_count<T: TryFrom<u64>>(text: &str) -> Result<T, String> {
    let count = text.parse::<u64>().ok().filter(|count| *count > 0);
    count
        .and_then(|count| T::try_from(count).ok())
        .ok_or_else(|| "write a whole number of at least 1".into())
}

/// Only binary units. `KB` means 1,000 to some people and 1,024 to others, and a ring would miss
/// its alignment with one of them.
fn parse_size(text: &str) -> Result<usize, String> {
    let digits_end = text.find(|character: char| !character.is_ascii_digit()).unwrap_or(text.len());
    let (digits, unit) = text.split_at(digits_end);
    let factor = match unit.trim_start() {
        "" | "B" => Some(1),
        unit => UNITS.iter().find(|(name, _)| *name == unit).map(|(_, factor)| *factor),
    };
    let size = digits
        .parse::<usize>()
        .ok()
        .zip(factor)
        .and_then(|(number, factor)| number.checked_mul(factor));
    size.filter(|size| *size > 0)
        .ok_or_else(|| "write a size over 0 such as 9600, 256KiB, 64MiB or 1GiB".into())
}

fn parse_duration(text: &str) -> Result<Duration, String> {
    let duration =
        humantime::parse_duration(text).ok().filter(|duration| *duration <= DURATION_MAX);
    duration.ok_or_else(|| "write a time such as 30s, 500us or 1h, of a year at most".into())
}

/// Longer times are never useful, and sums of shorter ones stay far below the end of the clock.
const DURATION_MAX: Duration = Duration::from_secs(366 * 24 * 60 * 60);

fn filled(text: &str) -> Result<&str, String> {
    match text {
        "" => Err("it is empty: give a value, or leave the setting out".into()),
        text => Ok(text),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_read_back_as_printed() {
        for (text, size) in
            [("1", 1), ("9600", 9600), ("256KiB", 262_144), ("64MiB", 64 << 20), ("1GiB", 1 << 30)]
        {
            assert_eq!((SIZE.parse)(text), Ok(size));
            assert_eq!(show_size(size), text);
        }
        assert_eq!((SIZE.parse)("1 KiB"), Ok(1024));
        assert_eq!((SIZE.parse)("12B"), Ok(12));
        for text in [
            "",
            "0",
            "0KiB",
            "KiB",
            "1KB",
            "1kib",
            "-1",
            "1.5MiB",
            "99999999999GiB",
            "99999999999999999999999",
        ] {
            assert!((SIZE.parse)(text).is_err(), "{text}");
        }
    }

    #[test]
    fn times_read_back_as_printed() {
        for text in ["30s", "500us", "1h", "1m 30s", "100ms"] {
            assert_eq!(show_duration((DURATION.parse)(text).unwrap()), text);
        }
        for text in ["", "30", "0s", "-1s", "s", "1 parsec", "400d"] {
            assert!((DURATION.parse)(text).is_err(), "{text}");
        }
        assert_eq!((DURATION_OR_ZERO.parse)("0s"), Ok(Duration::ZERO));
        assert_eq!((DURATION_OR_OFF.parse)("off"), Ok(None));
        assert!((DURATION_OR_OFF.parse)("0s").is_err());
    }

    #[test]
    fn networks_read_back_as_printed() {
        for text in ["off", "10.0.0.0/8", "10.0.0.0/8,2001:db8::/32"] {
            assert_eq!((NETWORKS.show)(&(NETWORKS.parse)(text).unwrap()).as_deref(), Some(text));
        }
        for text in ["", "10.0.0.0/8,", "10.0.0.1/8", "example.com", "off,10.0.0.0/8"] {
            assert!((NETWORKS.parse)(text).is_err(), "{text}");
        }
    }

    #[test]
    fn counts_start_at_one_and_end_at_their_type() {
        let format = count::<u32>();
        assert_eq!((format.parse)("4294967295"), Ok(u32::MAX));
        for text in ["0", "4294967296", "-1", "ten", ""] {
            assert!((format.parse)(text).is_err(), "{text}");
        }
        assert_eq!((COUNT_OR_OFF.parse)("off"), Ok(None));
        assert_eq!((COUNT_OR_OFF.show)(&None).as_deref(), Some("off"));
    }

    #[test]
    fn lists_refuse_empty_and_repeated_items() {
        assert_eq!((LIST.parse)("https://a.example, https://b.example").unwrap().unwrap().len(), 2);
        assert!((LIST.parse)("a,,b").is_err());
        assert!((LIST.parse)("").is_err());
        assert_eq!((RATES.parse)("8000, 16000"), Ok(vec![8_000, 16_000]));
        for text in ["", "8000,8000", "0", "8000,", "1000000"] {
            assert!((RATES.parse)(text).is_err(), "{text}");
        }
    }
}
