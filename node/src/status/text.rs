//! Texts of other machines made fit to be shown, and numbers as people read them.
//!
//! Part of `status`. Pure.
//! Invariants: a [`Text`] holds no character that could steer a terminal or change the order of what is read, and is
//! short; no line is wider than asked for.

use std::fmt;
use std::ops::Deref;

use serde::{Deserialize, Serialize};

/// Longest [`Text`], in characters.
const CHARACTERS_MAX: usize = 160;
/// What stands in place of a character that is not shown.
const HIDDEN: char = '?';
/// What stands in place of the middle of a text that was cut.
const CUT: char = '…';
/// Most names that one sentence lists.
const NAMES_MAX: usize = 4;

/// A text that another machine wrote.
#[derive(Clone, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(from = "String")]
pub(super) struct Text(Box<str>);

impl From<String> for Text {
    fn from(raw: String) -> Self {
        Self::from(raw.as_str())
    }
}

impl From<&str> for Text {
    fn from(raw: &str) -> Self {
        // Letters and digits of any script; signs only of ASCII, because the others can turn or hide what follows.
        let shown = |letter: char| letter.is_ascii_graphic() || letter == ' ' || letter.is_alphanumeric();
        let letters = raw.chars().take(CHARACTERS_MAX);
        Self(letters.map(|letter| if shown(letter) { letter } else { HIDDEN }).collect())
    }
}

impl Deref for Text {
    type Target = str;

    fn deref(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Text {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&*self.0, out)
    }
}

impl fmt::Debug for Text {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&*self.0, out)
    }
}

/// Columns of a terminal that `text` takes, at most: letters beyond ASCII may take two.
pub(super) fn width(text: &str) -> usize {
    text.chars().map(letter_width).sum()
}

fn letter_width(letter: char) -> usize {
    if letter.is_ascii() || letter == CUT { 1 } else { 2 }
}

/// `text` in at most `columns`; of a longer one the beginning and the end, where names differ.
pub(super) fn cut(text: &str, columns: usize) -> String {
    if width(text) <= columns {
        return text.to_owned();
    }
    let room = columns.saturating_sub(1);
    let head = fitting(text.chars(), room.div_ceil(2));
    let tail = fitting(text.chars().rev(), room / 2);
    let cut = Some(CUT).filter(|_| 0 < columns);
    head.into_iter().chain(cut).chain(tail.into_iter().rev()).collect()
}

fn fitting(letters: impl Iterator<Item = char>, columns: usize) -> Vec<char> {
    let mut taken = 0;
    let fits = |letter: &char| {
        taken += letter_width(*letter);
        taken <= columns
    };
    letters.take_while(fits).collect()
}

/// Appends `text` in lines of at most `columns`, the first after `first`, the others after as many spaces.
pub(super) fn wrap(out: &mut String, first: &str, text: &str, columns: usize) {
    let indent = width(first);
    let room = columns.saturating_sub(indent).max(1);
    let mut line = String::new();
    let mut lead = first.to_owned();
    let mut flush = |line: &mut String, lead: &mut String| {
        out.push_str(lead);
        out.push_str(line);
        out.push('\n');
        line.clear();
        *lead = " ".repeat(indent);
    };
    for word in text.split(' ') {
        let word = cut(word, room);
        if !line.is_empty() && room < width(&line) + 1 + width(&word) {
            flush(&mut line, &mut lead);
        }
        if !line.is_empty() {
            line.push(' ');
        }
        line.push_str(&word);
    }
    flush(&mut line, &mut lead);
}

/// `a, b and c`; of many the first ones, and how many there are beside.
pub(super) fn list<T: Deref<Target = str>>(names: &[T]) -> String {
    let shown: Vec<&str> = names.iter().take(NAMES_MAX).map(|name| &**name).collect();
    let left_out = names.len() - shown.len();
    match (&shown[..], left_out) {
        ([], _) => "nobody".to_owned(),
        ([one], 0) => (*one).to_owned(),
        ([most @ .., last], 0) => format!("{} and {last}", most.join(", ")),
        (shown, left_out) => format!("{} and {left_out} more", shown.join(", ")),
    }
}

/// A wait, from microseconds to hours: `0 ms`, `1.2 ms`, `340 ms`, `12 s`, `5 min`.
pub(super) fn wait(us: u64) -> String {
    match us {
        0 => "0 ms".to_owned(),
        1..10_000 => format!("{}.{} ms", us / 1000, us % 1000 / 100),
        10_000..10_000_000 => format!("{} ms", us / 1000),
        _ => span(us / 1000),
    }
}

/// How long ago something was: `<1 s`, `12 s`, `5 min`, `30 h`, `9 d`.
pub(super) fn span(ms: u64) -> String {
    let seconds = ms / 1000;
    match seconds {
        0 => "<1 s".to_owned(),
        1..120 => format!("{seconds} s"),
        120..7_200 => format!("{} min", seconds / 60),
        7_200..172_800 => format!("{} h", seconds / 3_600),
        _ => format!("{} d", (seconds / 86_400).min(9_999)),
    }
}

/// The time of day in UTC.
pub(super) fn time_of_day(unix_ms: u64) -> String {
    let seconds = unix_ms / 1000 % 86_400;
    format!("{:02}:{:02}:{:02} UTC", seconds / 3_600, seconds / 60 % 60, seconds % 60)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_that_steers_a_terminal_is_in_a_text() {
        for (raw, shown) in [
            ("node-1", "node-1"),
            ("minilm@00ff/f32 (a \"b\")", "minilm@00ff/f32 (a \"b\")"),
            ("模型é", "模型é"),
            ("\u{1b}[2J\u{7}", "?[2J?"),
            ("a\r\nb\tc\0", "a??b?c?"),
            // DEL, a CSI of one character, text turned around, a space without width, a line's end.
            ("\u{7f}\u{9b}\u{202e}\u{200b}\u{2028}", "?????"),
        ] {
            assert_eq!(&*Text::from(raw), shown);
        }
        assert_eq!(Text::from("x".repeat(10_000).as_str()).len(), CHARACTERS_MAX);
        assert_eq!(serde_json::from_str::<Text>(r#""a\u001b[31m""#).unwrap(), Text::from("a?[31m"));
    }

    #[test]
    fn a_cut_text_keeps_its_beginning_and_its_end() {
        for (text, columns, expected) in [
            ("node-1", 6, "node-1"),
            ("node-in-rack-17", 9, "node…k-17"),
            ("node-in-rack-17", 8, "node…-17"),
            ("模型数据模型", 7, "模…型"),
            ("abc", 1, "…"),
            ("abc", 0, ""),
        ] {
            assert_eq!(cut(text, columns), expected, "{text} in {columns}");
            assert!(width(&cut(text, columns)) <= columns, "{text} in {columns}");
        }
    }

    #[test]
    fn no_line_is_wider_than_asked_for() {
        let mut out = String::new();
        wrap(&mut out, "! ", "one two three and a-word-that-is-wider-than-any-line", 12);
        assert_eq!(out, "! one two\n  three and\n  a-wor…line\n");
    }

    #[test]
    fn a_list_names_some_and_counts_the_others() {
        let names = ["a", "b", "c", "d", "e", "f"];
        let lists = [0, 1, 2, 4, 5, 6].map(|count| list(&names[..count]));
        assert_eq!(
            lists,
            ["nobody", "a", "a and b", "a, b, c and d", "a, b, c, d and 1 more", "a, b, c, d and 2 more"]
        );
    }

    #[test]
    fn times_are_short_however_long_they_are() {
        let waits = [0, 99, 1_250, 9_999, 10_000, 9_999_999, 12_000_000, u64::MAX].map(wait);
        assert_eq!(waits, ["0 ms", "0.0 ms", "1.2 ms", "9.9 ms", "10 ms", "9999 ms", "12 s", "9999 d"]);
        let spans = [999, 1000, 119_999, 120_000, 7_200_000, 172_800_000, u64::MAX].map(span);
        assert_eq!(spans, ["<1 s", "1 s", "119 s", "2 min", "2 h", "2 d", "9999 d"]);
        assert_eq!(time_of_day(1_700_000_000_000), "22:13:20 UTC");
    }
}
