//! What values one key takes: type, range and form, and the words that tell people so.
//!
//! Pure. For `keys` (which gives every key a rule), `layers` (which applies it) and `print` (which documents it).
//!
//! Invariants: a rule is applied to every value of every layer, so a value that is overridden later is checked as well;
//! text without a type (environment, flags, YAML) is read by the type of the key, never guessed.

use std::net::SocketAddr;

use serde_json::{Value, json};

use super::keys::Key;
use super::problem::quoted;
use super::suggest;

/// Most seeds: one that is up is enough, so a longer list is a mistake.
const SEEDS_MAX: usize = 256;

/// Longest path that the system takes.
const PATH_BYTES_MAX: usize = 4096;

/// Longest filter for the log.
const FILTER_BYTES_MAX: usize = 1024;

/// A value as it stands in a layer.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Written {
    /// Text whose type the key decides: a variable, a flag, a scalar of YAML.
    Loose(String),
    /// TOML text, in quotes.
    Text(String),
    /// A TOML number, boolean or date, as its characters.
    Bare(String),
    /// YAML's nothing.
    Nothing,
    List(Vec<Written>),
    Table(Vec<Field>),
}

/// One `name = value` of a file.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Field {
    pub(super) name: String,
    /// Counted from 1.
    pub(super) line: usize,
    pub(super) value: Written,
}

/// What values a key takes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Rule {
    /// Up to 64 characters that are safe in file names, headers and metrics.
    Label {
        length_min: usize,
    },
    /// A path or a name.
    Path {
        example: &'static str,
    },
    /// IP:PORT.
    Address,
    /// A list of HOST:PORT.
    Seeds,
    Whole {
        min: u64,
        max: u64,
    },
    Real {
        min: f64,
        max: f64,
    },
    OneOf(&'static [&'static str]),
    /// `true` or `false`.
    Switch,
    /// The kind of engine; what follows the colon is the engine's to read.
    Engine,
    /// A filter of `tracing`.
    LogFilter,
}

/// Why a value does not pass. `fix` is there when the rule's own words would not help.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Complaint {
    pub(super) problem: String,
    pub(super) fix: Option<String>,
}

impl From<String> for Complaint {
    fn from(problem: String) -> Self {
        Self { problem, fix: None }
    }
}

impl Rule {
    /// The value in its final type, or why it is none.
    pub(super) fn read(self, written: &Written) -> Result<Value, Complaint> {
        match self {
            Self::Label { length_min } => label(length_min, text(written)?),
            Self::Path { .. } => path(text(written)?),
            Self::Address => address(text(written)?),
            Self::Seeds => seeds(written),
            Self::Whole { min, max } => whole(min, max, number(written)?),
            Self::Real { min, max } => real(min, max, number(written)?),
            Self::OneOf(words) => one_of(words, text(written)?),
            Self::Switch => switch(written),
            Self::Engine => engine(text(written)?),
            Self::LogFilter => log_filter(text(written)?),
        }
    }

    /// What to write for `key`, as an order: "write a whole number of milliseconds from 20 to 10000, such as 100".
    pub(super) fn wanted(self, key: &Key) -> String {
        let form = self.form(key);
        match self {
            Self::Path { .. } | Self::Address | Self::Seeds | Self::Whole { .. } | Self::Real { .. } => {
                format!("write {form}, such as {}", self.example(key))
            }
            Self::Label { .. } | Self::OneOf(_) | Self::Switch | Self::Engine | Self::LogFilter => {
                format!("write {form}")
            }
        }
    }

    /// The form of the value, for people: type, unit and range.
    pub(super) fn form(self, key: &Key) -> String {
        match self {
            Self::Label { length_min: 0 } => "up to 64 of the characters A-Z a-z 0-9 . _ -".to_owned(),
            Self::Label { .. } => "1 to 64 of the characters A-Z a-z 0-9 . _ -".to_owned(),
            Self::Path { .. } => format!("1 to {PATH_BYTES_MAX} bytes of text"),
            Self::Address => "IP:PORT (host names are not looked up here)".to_owned(),
            Self::Seeds => format!("HOST:PORT, up to {SEEDS_MAX} of them"),
            Self::Whole { min, max } => format!("a whole number{} from {min} to {max}", unit(key.name())),
            Self::Real { min, max } => format!("a number from {min} to {max}"),
            Self::OneOf(words) => match words {
                [most @ .., last] if 1 < most.len() => format!("{} or {last}", most.join(", ")),
                words => words.join(" or "),
            },
            Self::Switch => "true or false".to_owned(),
            Self::Engine => "candle, or synthetic:DURATION such as synthetic:5ms".to_owned(),
            Self::LogFilter => {
                "off, error, warn, info, debug or trace, or a filter such as info,shoal::forward=debug".to_owned()
            }
        }
    }

    /// A value of the right form: the default where there is one.
    pub(super) fn example(self, key: &Key) -> String {
        match (self, key.default_value()) {
            (Self::Seeds, _) => "10.0.0.5:8090".to_owned(),
            (Self::Path { example }, _) => example.to_owned(),
            (Self::Label { .. }, Value::Null) => "node-1".to_owned(),
            (Self::Address, Value::Null) => "10.0.0.5:8080".to_owned(),
            (_, Value::String(text)) => text.clone(),
            (_, other) => other.to_string(),
        }
    }
}

/// " of milliseconds" and the like, by the words in the key's name.
fn unit(name: &str) -> &'static str {
    name.split('_')
        .find_map(|word| match word {
            "ms" => Some(" of milliseconds"),
            "s" => Some(" of seconds"),
            "bytes" => Some(" of bytes"),
            "percent" => Some(" of percent"),
            _ => None,
        })
        .unwrap_or_default()
}

/// The characters of a value that has to be text.
fn text(written: &Written) -> Result<&str, Complaint> {
    let text = match written {
        Written::Loose(text) | Written::Text(text) => text,
        Written::Bare(bare) => {
            let fix = Some("put it in quotes".to_owned());
            return Err(Complaint { problem: format!("{bare} is not text"), fix });
        }
        Written::Nothing => return Err(nothing()),
        Written::List(_) => return Err("a list is not a single value".to_owned().into()),
        Written::Table(_) => return Err(table()),
    };
    match text.chars().find(|c| c.is_control() || *c == char::REPLACEMENT_CHARACTER) {
        None => Ok(text),
        Some(_) => Err(format!("{} holds control characters or broken UTF-8", quoted(text)).into()),
    }
}

/// The characters of a value that has to be a number.
fn number(written: &Written) -> Result<&str, Complaint> {
    match written {
        Written::Loose(text) => Ok(text.trim()),
        Written::Bare(text) => Ok(text),
        Written::Text(text) => Err(format!("{} is text, not a number", quoted(text)).into()),
        Written::Nothing => Err(nothing()),
        Written::List(_) => Err("a list is not a number".to_owned().into()),
        Written::Table(_) => Err(table()),
    }
}

fn nothing() -> Complaint {
    Complaint { problem: "the value is missing".to_owned(), fix: Some("give one, or remove the key".to_owned()) }
}

fn table() -> Complaint {
    Complaint { problem: "a table is not a value".to_owned(), fix: Some("remove the keys below it".to_owned()) }
}

fn label(length_min: usize, text: &str) -> Result<Value, Complaint> {
    let is_fine = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
    if text.len() < length_min {
        return Err("the text is empty".to_owned().into());
    }
    if 64 < text.len() {
        return Err(format!("{} is longer than 64 bytes", quoted(text)).into());
    }
    match text.chars().find(|c| !u8::try_from(*c).is_ok_and(is_fine)) {
        None => Ok(json!(text)),
        Some(bad) => Err(format!("{} holds {bad:?}", quoted(text)).into()),
    }
}

fn path(text: &str) -> Result<Value, Complaint> {
    if text.is_empty() {
        return Err("the text is empty".to_owned().into());
    }
    if PATH_BYTES_MAX < text.len() {
        return Err(format!("{} is longer than {PATH_BYTES_MAX} bytes", quoted(text)).into());
    }
    if text == "~" || text.starts_with("~/") {
        let problem = format!("{} begins with ~, which only a shell expands", quoted(text));
        return Err(Complaint { problem, fix: Some("write the whole path".to_owned()) });
    }
    Ok(json!(text))
}

fn address(text: &str) -> Result<Value, Complaint> {
    let address: SocketAddr = text.trim().parse().map_err(|_| format!("{} is not IP:PORT", quoted(text)))?;
    if address.port() == 0 {
        return Err(format!("{} has port 0, which no peer or caller can know", quoted(text)).into());
    }
    Ok(json!(address))
}

fn seeds(written: &Written) -> Result<Value, Complaint> {
    let items: Vec<&str> = match written {
        // A list in one variable or flag.
        Written::Loose(all) if all.trim().is_empty() => Vec::new(),
        Written::Loose(all) => all.split(',').collect(),
        Written::List(items) => items.iter().map(text).collect::<Result<_, _>>()?,
        Written::Nothing => return Err(nothing()),
        Written::Table(_) => return Err(table()),
        Written::Text(one) | Written::Bare(one) => {
            let fix = Some("write [\"HOST:PORT\"], in brackets".to_owned());
            return Err(Complaint { problem: format!("{} is not a list", quoted(one)), fix });
        }
    };
    if SEEDS_MAX < items.len() {
        return Err(format!("{} seeds are too many", items.len()).into());
    }
    let seeds = items.into_iter().map(seed).collect::<Result<Vec<_>, _>>()?;
    Ok(json!(seeds))
}

fn seed(given: &str) -> Result<&str, Complaint> {
    let seed = given.trim();
    let (host, port) = seed.rsplit_once(':').ok_or_else(|| format!("{} has no port", quoted(seed)))?;
    if !port.bytes().all(|byte| byte.is_ascii_digit()) || !port.parse::<u16>().is_ok_and(|port| 0 < port) {
        return Err(format!("{} has no port from 1 to 65535", quoted(seed)).into());
    }
    if let Some(inner) = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
        return match inner.parse::<std::net::Ipv6Addr>() {
            Ok(_) => Ok(seed),
            Err(_) => Err(format!("{} has no IPv6 address in its brackets", quoted(seed)).into()),
        };
    }
    if host.contains(':') {
        let fix = Some("put an IPv6 address in brackets, such as [fd00::5]:8090".to_owned());
        return Err(Complaint { problem: format!("{} is not HOST:PORT", quoted(seed)), fix });
    }
    if is_host(host) { Ok(seed) } else { Err(format!("{} is not HOST:PORT", quoted(seed)).into()) }
}

/// Whether `host` can be a DNS name or an IPv4 address. Underscores are allowed: container names have them.
fn is_host(host: &str) -> bool {
    let is_fine = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
    let is_label = |label: &str| (1..=63).contains(&label.len()) && label.bytes().all(is_fine);
    let dotless = host.strip_suffix('.').unwrap_or(host);
    host.len() <= 253 && dotless.split('.').all(is_label)
}

fn whole(min: u64, max: u64, text: &str) -> Result<Value, Complaint> {
    let digits = text.strip_prefix(['-', '+']).unwrap_or(text);
    let is_whole = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
    if !is_whole {
        return Err(format!("{} is not a whole number", quoted(text)).into());
    }
    // Too many digits for the type are out of any range.
    match text.parse::<u64>() {
        Ok(value) if (min..=max).contains(&value) => Ok(json!(value)),
        _ => Err(format!("{} is out of range", cut(text)).into()),
    }
}

fn real(min: f64, max: f64, text: &str) -> Result<Value, Complaint> {
    let value: f64 = text.parse().map_err(|_| format!("{} is not a number", quoted(text)))?;
    if (min..=max).contains(&value) { Ok(json!(value)) } else { Err(format!("{} is out of range", cut(text)).into()) }
}

/// A number as it stands, without quotes, unless it is long.
fn cut(number: &str) -> String {
    if number.len() <= 40 { number.to_owned() } else { quoted(number) }
}

fn one_of(words: &[&str], text: &str) -> Result<Value, Complaint> {
    if words.contains(&text) {
        return Ok(json!(text));
    }
    let fix = suggest::among(text, words).map(|word| format!("did you mean `{word}`?"));
    Err(Complaint { problem: format!("{} is none of the words", quoted(text)), fix })
}

fn switch(written: &Written) -> Result<Value, Complaint> {
    let word = match written {
        Written::Loose(text) => text.trim(),
        Written::Bare(text) => text,
        Written::Text(text) => return Err(format!("{} is text, not true or false", quoted(text)).into()),
        Written::Nothing => return Err(nothing()),
        Written::List(_) => return Err("a list is not a single value".to_owned().into()),
        Written::Table(_) => return Err(table()),
    };
    match word {
        "true" => Ok(json!(true)),
        "false" => Ok(json!(false)),
        _ => Err(format!("{} is neither true nor false", quoted(word)).into()),
    }
}

fn engine(text: &str) -> Result<Value, Complaint> {
    let (kind, rest) = text.split_once(':').map_or((text, None), |(kind, rest)| (kind, Some(rest)));
    match (kind, rest) {
        ("candle", None) => Ok(json!(text)),
        ("synthetic", Some(rest)) if !rest.is_empty() => Ok(json!(text)),
        ("synthetic", _) => Err(format!("{} has no duration", quoted(text)).into()),
        _ => Err(format!("{} is no engine", quoted(text)).into()),
    }
}

/// `tracing` takes a bare word that is no level for the name of a module, and a typing error would silence the log.
fn log_filter(text: &str) -> Result<Value, Complaint> {
    const LEVELS: [&str; 6] = ["off", "error", "warn", "info", "debug", "trace"];
    if text.trim().is_empty() {
        return Err("the text is empty".to_owned().into());
    }
    if FILTER_BYTES_MAX < text.len() {
        return Err(format!("{} is longer than {FILTER_BYTES_MAX} bytes", quoted(text)).into());
    }
    let bare_words = text.split(',').map(str::trim).filter(|part| !part.contains(['=', '[', ']', '{', '}']));
    for word in bare_words {
        if !LEVELS.contains(&word.to_lowercase().as_str()) {
            let fix = suggest::among(word, &LEVELS).map(|level| format!("did you mean `{level}`?"));
            return Err(Complaint { problem: format!("{} is not a level", quoted(word)), fix });
        }
    }
    match tracing_subscriber::EnvFilter::builder().parse(text) {
        Ok(_) => Ok(json!(text)),
        Err(error) => Err(format!("{} is not a filter ({error})", quoted(text)).into()),
    }
}
