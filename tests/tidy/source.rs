//! A Rust file cut into words, signs, literals and comments.
//!
//! For the checks that look for names in code, which must not be led astray by the same name in a comment or a string.
//! Invariants: every byte outside white space belongs to exactly one token; lines count from 1.
//! Not here: a grammar; the checks look at short runs of tokens only, and need no types.

use std::ops::Range;

/// What a token is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// An identifier, a keyword or a number.
    Word,
    /// `::` or one character of punctuation.
    Sign,
    /// A string, byte string or character, with its quotes.
    Literal,
    /// A comment or a documentation comment, with its slashes.
    Comment,
}

/// One token and the line that it starts on.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Token<'a> {
    pub(crate) kind: Kind,
    pub(crate) text: &'a str,
    pub(crate) line: usize,
}

/// Every token of a file, comments included.
pub(crate) fn tokens(source: &str) -> Vec<Token<'_>> {
    let mut found = Vec::new();
    let mut line = 1;
    let mut rest = source;
    while let Some(first) = rest.chars().next() {
        let (kind, length) = measure(first, rest);
        let (text, after) = rest.split_at(length);
        found.extend(kind.map(|kind| Token { kind, text, line }));
        line += text.matches('\n').count();
        rest = after;
    }
    found
}

/// The words and signs of a file: what is left of it without comments and literals.
pub(crate) fn code(source: &str) -> Vec<Token<'_>> {
    tokens(source).into_iter().filter(|token| matches!(token.kind, Kind::Word | Kind::Sign)).collect()
}

/// Whether the tokens from `at` on read exactly as `words`.
pub(crate) fn reads(code: &[Token<'_>], at: usize, words: &[&str]) -> bool {
    code.len() >= at + words.len() && words.iter().zip(&code[at..]).all(|(word, token)| *word == token.text)
}

/// The names that a path reaches first: `a` and `b` for `a::c` or `{a::c, b}`, starting at `at`.
///
/// A glob is returned as `*`.
pub(crate) fn first_names<'a>(code: &[Token<'a>], at: usize) -> Vec<Token<'a>> {
    let Some(first) = code.get(at) else { return Vec::new() };
    if first.text != "{" {
        return vec![*first];
    }
    let mut names = Vec::new();
    let mut depth = 0_u32;
    for (index, token) in code.iter().enumerate().skip(at) {
        match token.text {
            "{" => depth += 1,
            "}" => depth -= 1,
            _ if depth == 1 && matches!(code[index - 1].text, "{" | ",") => names.push(*token),
            _ => {}
        }
        if depth == 0 {
            break;
        }
    }
    names
}

/// The token after the item that starts at `at`: after its closing brace, or after its semicolon.
pub(crate) fn end_of_item(code: &[Token<'_>], at: usize) -> usize {
    let mut depth = 0_u32;
    for (index, token) in code.iter().enumerate().skip(at) {
        match token.text {
            "{" | "(" | "[" => depth += 1,
            "}" | ")" | "]" => depth = depth.saturating_sub(1),
            _ => {}
        }
        if depth == 0 && matches!(token.text, "}" | ";") {
            return index + 1;
        }
    }
    code.len()
}

/// The tokens inside the brackets of each attribute, `#[…]` and `#![…]`.
pub(crate) fn attributes(code: &[Token<'_>]) -> Vec<Range<usize>> {
    let mut found = Vec::new();
    for start in 0..code.len() {
        let inside = if reads(code, start, &["#", "["]) {
            start + 2
        } else if reads(code, start, &["#", "!", "["]) {
            start + 3
        } else {
            continue;
        };
        let mut depth = 1_u32;
        let end = code.iter().enumerate().skip(inside).find(|(_, token)| {
            match token.text {
                "[" => depth += 1,
                "]" => depth -= 1,
                _ => {}
            }
            depth == 0
        });
        found.push(inside..end.map_or(code.len(), |(index, _)| index));
    }
    found
}

/// What starts at `first`, the first character of `rest`, and how many bytes it takes; white space is no token.
fn measure(first: char, rest: &str) -> (Option<Kind>, usize) {
    if first.is_whitespace() {
        return (None, first.len_utf8());
    }
    if rest.starts_with("//") {
        return (Some(Kind::Comment), rest.find('\n').unwrap_or(rest.len()));
    }
    if rest.starts_with("/*") {
        return (Some(Kind::Comment), block_comment_length(rest));
    }
    if first == '"' || (first == '\'' && is_character(rest)) {
        return (Some(Kind::Literal), quoted_length(rest, first));
    }
    if let Some(length) = raw_string_length(rest) {
        return (Some(Kind::Literal), length);
    }
    if is_word(first) {
        return (Some(Kind::Word), rest.find(|next| !is_word(next)).unwrap_or(rest.len()));
    }
    let length = if rest.starts_with("::") { 2 } else { first.len_utf8() };
    (Some(Kind::Sign), length)
}

fn is_word(letter: char) -> bool {
    letter == '_' || letter.is_alphanumeric()
}

fn block_comment_length(text: &str) -> usize {
    let mut depth = 0_u32;
    let mut at = 0;
    while at < text.len() {
        if text[at..].starts_with("/*") {
            depth += 1;
            at += 2;
        } else if text[at..].starts_with("*/") {
            depth -= 1;
            at += 2;
        } else {
            at += text[at..].chars().next().map_or(1, char::len_utf8);
        }
        if depth == 0 {
            break;
        }
    }
    at.min(text.len())
}

/// A quote that opens a character, rather than a lifetime, has an escape behind it or a quote after one character.
fn is_character(text: &str) -> bool {
    let mut letters = text.chars().skip(1);
    letters.next() == Some('\\') || letters.next() == Some('\'')
}

fn quoted_length(text: &str, quote: char) -> usize {
    let mut escaped = false;
    for (at, letter) in text.char_indices().skip(1) {
        match letter {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            _ if letter == quote => return at + letter.len_utf8(),
            _ => {}
        }
    }
    text.len()
}

/// The length of `r"…"`, `r#"…"#` and their byte and C forms; `None` where none starts.
fn raw_string_length(text: &str) -> Option<usize> {
    let body = ["r", "br", "cr"].iter().find_map(|prefix| text.strip_prefix(prefix))?;
    let hashes = body.len() - body.trim_start_matches('#').len();
    let opened = body[hashes..].strip_prefix('"')?;
    let closing = format!("\"{}", "#".repeat(hashes));
    let end = opened.find(&closing).map_or(opened.len(), |at| at + closing.len());
    Some(text.len() - opened.len() + end)
}

#[test]
fn names_in_comments_and_literals_are_not_code() {
    let source = r####"
        //! crate::a
        /* one /* crate::b */ two */ fn real<'long>(x: &'long str) { 'x'; '\''; "crate::\"c"; r#"crate::"d"#; b"e"; }
    "####;
    let words: Vec<&str> = code(source).iter().filter(|it| it.kind == Kind::Word).map(|it| it.text).collect();
    assert_eq!(words, ["fn", "real", "long", "x", "long", "str", "b"]);
}

#[test]
fn a_token_knows_its_line() {
    let lines: Vec<usize> = tokens("a\n\"two\nlines\" b\n/* x\n y */ c").iter().map(|token| token.line).collect();
    assert_eq!(lines, [1, 2, 3, 4, 5]);
}

#[test]
fn the_first_names_of_a_nested_import_are_found() {
    let code = code("use crate::{a::{x, y}, b, c as d, *};");
    let names: Vec<&str> = first_names(&code, 3).iter().map(|token| token.text).collect();
    assert_eq!(names, ["a", "b", "c", "*"]);
}
