//! Numbers with their nouns, for people.

/// The number and its noun, in the singular or the plural: `1 call`, `2 calls`, `1,000 calls`.
pub fn counted(number: u64, noun: &str) -> String {
    let ending = match (number, noun.ends_with('x')) {
        (1, _) => "",
        (_, true) => "es",
        (_, false) => "s",
    };
    format!("{} {noun}{ending}", grouped(number))
}

/// 1,234,567.
pub fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let first = (digits.len() - 1) % 3 + 1;
    let (head, tail) = digits.split_at(first);
    let groups =
        tail.as_bytes().chunks(3).map(|group| format!(",{}", String::from_utf8_lossy(group)));
    std::iter::once(head.to_owned()).chain(groups).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_is_no_plural() {
        let texts = [0, 1, 2, 16_000].map(|number| counted(number, "call"));
        assert_eq!(texts, ["0 calls", "1 call", "2 calls", "16,000 calls"]);
        assert_eq!([1, 3].map(|number| counted(number, "box")), ["1 box", "3 boxes"]);
    }

    #[test]
    fn large_numbers_have_groups() {
        let numbers = [0, 999, 1_000, 12_345, 123_456, 1_234_567].map(grouped);
        assert_eq!(numbers, ["0", "999", "1,000", "12,345", "123,456", "1,234,567"]);
    }
}
