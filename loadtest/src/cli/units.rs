//! Sizes and rates on the command line: `1.4GB/s`, `10Gbit/s`, `64GiB`.

/// Factors of 1,000 and of 1,024.
const FACTORS: [(&str, f64); 8] = [
    ("Ki", 1_024.0),
    ("Mi", 1_048_576.0),
    ("Gi", 1_073_741_824.0),
    ("Ti", 1_099_511_627_776.0),
    ("k", 1e3),
    ("M", 1e6),
    ("G", 1e9),
    ("T", 1e12),
];

/// Reads bytes: `64GiB`, `500MB`, `1000000`.
pub fn bytes(text: &str) -> Result<f64, String> {
    scaled(text, &["B", ""], "write one like 64GiB")
}

/// Reads bytes a second: `1.4GB/s`.
pub fn bytes_per_second(text: &str) -> Result<f64, String> {
    scaled(text, &["B/s", "B", ""], "write one like 1.4GB/s")
}

/// Reads bits a second: `10Gbit/s`. A capital B would be bytes.
pub fn bits_per_second(text: &str) -> Result<f64, String> {
    scaled(text, &["bit/s", "b/s", "bit", "b", "bps", ""], "write one like 10Gbit/s, in bits")
}

fn scaled(text: &str, units: &[&str], help: &str) -> Result<f64, String> {
    let wrong = || format!("'{text}' is none; {help}");
    let compact: String = text.chars().filter(|c| !c.is_whitespace() && *c != '_').collect();
    let end = compact.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(compact.len());
    let (number, unit) = compact.split_at(end);
    let factor = FACTORS
        .iter()
        .find_map(|(name, factor)| Some((unit.strip_prefix(name)?, *factor)))
        .filter(|(rest, _)| units.contains(rest))
        .map(|(_, factor)| factor)
        .or_else(|| units.contains(&unit).then_some(1.0));
    let number = number.parse::<f64>().ok().filter(|number| *number > 0.0);
    Ok(number.ok_or_else(wrong)? * factor.ok_or_else(wrong)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_and_rates_are_read_as_people_write_them() {
        for (text, value) in [("1000", 1e3), ("64GiB", 68_719_476_736.0), ("1.5 TB", 1.5e12)] {
            assert_eq!(bytes(text), Ok(value), "{text}");
        }
        for (text, value) in [("1.4GB/s", 1.4e9), ("500MB", 5e8), ("2 GiB/s", 2_147_483_648.0)] {
            assert_eq!(bytes_per_second(text), Ok(value), "{text}");
        }
        for (text, value) in [("10Gbit/s", 1e10), ("10G", 1e10), ("2.5 Gb/s", 2.5e9)] {
            assert_eq!(bits_per_second(text), Ok(value), "{text}");
        }
    }

    #[test]
    fn what_is_no_size_is_refused_with_an_example() {
        for text in ["", "x", "-1", "0", "1XB", "GB", "1e9"] {
            assert!(bytes(text).unwrap_err().contains("64GiB"), "{text}");
        }
        // Bytes where bits are asked for: eight times too little would be planned.
        assert!(bits_per_second("10GB/s").unwrap_err().contains("in bits"));
        assert!(bytes_per_second("10Gbit/s").is_err());
    }
}
