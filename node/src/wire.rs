//! What peers say to each other: messages, and the short text form of a load report.
//!
//! For `forward` (both ends of the peer leg) and `gossip` (which carries the same report).
//! Invariants: unknown protobuf fields are ignored and no field is ever renumbered, so that versions N and N+1 work
//! side by side; everything that a peer says is checked here before anybody acts on it.
//! Not here: connections, status codes (`forward`).

mod cache;

use bytes::{Buf as _, Bytes, BytesMut};
use prost::Message as _;
use shoal_core::cost::Cost;
use shoal_core::id::BootId;
use shoal_core::lifecycle::Standing;
use shoal_core::load::Report;
use shoal_core::share::Share;
use shoal_core::time::Micros;
use shoal_engine::{EmbedOptions, Embedding, Truncation};

pub use cache::{
    CACHE_GET_PATH, CACHE_PUT_PATH, CacheFound, CacheGet, CachePut, FOUND_BYTES_MAX, FOUND_VALUES_BYTES_MAX, FoundRow,
    KEY_BYTES, KEYS_MAX, KeyBytes, PUT_VALUES_BYTES_MAX, join_keys,
};

/// Path of a job.
pub const EXECUTE_PATH: &str = "/shoal.v1/execute";
/// Path of a sign of life.
pub const PING_PATH: &str = "/shoal.v1/ping";
/// Response header: [`encode_report`] of the peer's load.
pub const LOAD_HEADER: &str = "x-shoal-load";
/// Response header: microseconds between the arrival of the request and these headers.
pub const HELD_HEADER: &str = "x-shoal-held-us";
/// Response header of a job that is not taken: `busy`, `full`, `draining` or `unable`.
pub const REFUSAL_HEADER: &str = "x-shoal-refusal";
/// Bytes of vectors in one message of an answer. Small enough that a ping between two of them is soon through, and that
/// the message is within the least `peer.message_bytes_max` that a peer may be configured with, 128 KiB.
const CHUNK_BYTES: usize = 64 * 1024;
/// What a report's text begins with. A later version adds numbers at the end; one that cannot be read so says another
/// word here.
const REPORT_FORM: &str = "v1";
/// A part of a device or of a memory that nobody knows, in a report. A share has at most 100 percent.
const SHARE_UNKNOWN: u64 = 255;

/// A job handed to a peer.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Execute {
    /// `x-request-id` of the caller's call.
    #[prost(string, tag = "1")]
    pub request_id: String,
    /// W3C trace context; empty when there is none.
    #[prost(string, tag = "2")]
    pub traceparent: String,
    /// `name@revision/precision` that has to answer.
    #[prost(string, tag = "3")]
    pub model: String,
    /// The texts.
    #[prost(string, repeated, tag = "4")]
    pub texts: Vec<String>,
    /// 0 = keep the first tokens, 1 = keep the last, 2 = refuse what is too long.
    #[prost(uint32, tag = "5")]
    pub truncation: u32,
    /// Scale to length 1; absent = as the model says.
    #[prost(bool, optional, tag = "6")]
    pub normalize: Option<bool>,
    /// Dimensions to keep; absent = all.
    #[prost(uint32, optional, tag = "7")]
    pub dimensions: Option<u32>,
    /// Milliseconds that the caller still gives.
    #[prost(uint32, tag = "8")]
    pub remaining_ms: u32,
    /// The sender's own completion in microseconds: refuse as busy when it would be later; absent = take it if you can.
    #[prost(uint64, optional, tag = "9")]
    pub bound_us: Option<u64>,
    /// Node id of the sender.
    #[prost(string, tag = "10")]
    pub origin: String,
    /// Cluster of the sender.
    #[prost(string, tag = "11")]
    pub cluster: String,
}

/// One message of the answer to [`Execute`]: some vectors, or the end.
#[derive(Clone, PartialEq, prost::Message)]
pub struct AnswerPart {
    /// Vectors of some rows, in order.
    #[prost(message, optional, tag = "1")]
    pub rows: Option<Rows>,
    /// The last message.
    #[prost(message, optional, tag = "2")]
    pub end: Option<End>,
}

/// Vectors of consecutive rows.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Rows {
    /// Values of each vector.
    #[prost(uint32, tag = "1")]
    pub dimensions: u32,
    /// Little-endian f32, row after row.
    #[prost(bytes = "bytes", tag = "2")]
    pub values: Bytes,
    /// Tokens of each row.
    #[prost(uint32, repeated, tag = "3")]
    pub tokens: Vec<u32>,
}

/// How a job ended.
#[derive(Clone, PartialEq, prost::Message)]
pub struct End {
    /// One of [`verdict`]; a number of a later version counts as failed.
    #[prost(uint32, tag = "1")]
    pub verdict: u32,
    /// For people, when it is not done.
    #[prost(string, tag = "2")]
    pub message: String,
    /// Which row is to be changed, when one is.
    #[prost(uint32, tag = "3")]
    pub row: u32,
    /// Microseconds until the first row ran.
    #[prost(uint64, tag = "4")]
    pub queue_us: u64,
    /// Microseconds of its forward passes.
    #[prost(uint64, tag = "5")]
    pub compute_us: u64,
    /// [`encode_report`] at the end.
    #[prost(string, tag = "6")]
    pub load: String,
}

/// Verdicts of [`End`].
pub mod verdict {
    /// All vectors are there.
    pub const DONE: u32 = 0;
    /// The caller has to change the request.
    pub const REJECTED: u32 = 1;
    /// The model failed.
    pub const FAILED: u32 = 2;
    /// The deadline passed.
    pub const EXPIRED: u32 = 3;
    /// The job was acknowledged but not run to its end, through no fault of its own: the node left, or lost its engine.
    pub const GIVEN_BACK: u32 = 4;
}

/// Why bytes of a peer are no message.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WireError {
    /// Not the protobuf that was expected.
    #[error("not a message: {0}")]
    Decode(String),
    /// A message that contradicts itself.
    #[error("a message that contradicts itself: {0}")]
    Inconsistent(&'static str),
    /// A message longer than the limit.
    #[error("a message of {bytes} bytes, more than {bytes_max}")]
    TooLong { bytes: u64, bytes_max: usize },
}

impl Execute {
    /// The caller's options.
    ///
    /// # Errors
    /// [`WireError::Inconsistent`] for a truncation that this version does not know.
    pub fn options(&self) -> Result<EmbedOptions, WireError> {
        let truncation = match self.truncation {
            0 => Truncation::Right,
            1 => Truncation::Left,
            2 => Truncation::Refuse,
            _ => return Err(WireError::Inconsistent("unknown truncation")),
        };
        Ok(EmbedOptions { truncation, normalize: self.normalize, dimensions: self.dimensions })
    }
}

/// The number of `truncation` in [`Execute::truncation`].
#[must_use]
pub fn truncation_number(truncation: Truncation) -> u32 {
    match truncation {
        Truncation::Right => 0,
        Truncation::Left => 1,
        Truncation::Refuse => 2,
    }
}

/// `rows` as length-delimited [`AnswerPart`]s of bounded size, `end` last.
#[must_use]
pub fn encode_answer(rows: &[Embedding], end: End) -> Vec<Bytes> {
    let dimensions = rows.first().map_or(0, |row| row.values.len());
    let rows_a_chunk = (CHUNK_BYTES / (dimensions * 4).max(1)).max(1);
    let part = |rows: &[Embedding]| delimited(&AnswerPart { rows: Some(rows_message(rows.iter())), end: None });
    let mut parts: Vec<Bytes> = rows.chunks(rows_a_chunk).map(part).collect();
    let last = delimited(&AnswerPart { rows: None, end: Some(end) });
    // A short answer is one frame on the wire: the end rides behind the only chunk.
    match parts.as_mut_slice() {
        [only] => {
            let mut joined = BytesMut::with_capacity(only.len() + last.len());
            joined.extend_from_slice(only);
            joined.extend_from_slice(&last);
            *only = joined.freeze();
        }
        _ => parts.push(last),
    }
    parts
}

/// `rows`, all of one width, as a message.
fn rows_message<'a>(rows: impl Iterator<Item = &'a Embedding>) -> Rows {
    let (mut dimensions, mut values, mut tokens) = (0, Vec::new(), Vec::new());
    for row in rows {
        dimensions = row.values.len();
        values.reserve(dimensions * 4);
        values.extend(row.values.iter().flat_map(|value| value.to_le_bytes()));
        tokens.push(row.tokens);
    }
    let dimensions = u32::try_from(dimensions).expect("a vector has fewer than 2^32 values");
    Rows { dimensions, values: values.into(), tokens }
}

/// The vectors of a message, all finite.
fn read_rows(rows: &Rows) -> Result<Vec<Embedding>, WireError> {
    let width = rows.dimensions as usize * 4;
    if width == 0 || rows.values.len() != width.saturating_mul(rows.tokens.len()) {
        return Err(WireError::Inconsistent("the values do not fit the dimensions"));
    }
    let mut read = Vec::with_capacity(rows.tokens.len());
    for (bytes, &tokens) in rows.values.chunks_exact(width).zip(&rows.tokens) {
        let (values, _) = bytes.as_chunks::<4>();
        let values: Vec<f32> = values.iter().map(|value| f32::from_le_bytes(*value)).collect();
        if !values.iter().all(|value| value.is_finite()) {
            return Err(WireError::Inconsistent("a value that is not finite"));
        }
        read.push(Embedding { values, tokens });
    }
    Ok(read)
}

fn delimited(part: &AnswerPart) -> Bytes {
    part.encode_length_delimited_to_vec().into()
}

/// Puts together an answer that comes in pieces.
#[derive(Debug)]
pub struct AnswerDecoder {
    buffer: BytesMut,
    rows: Vec<Embedding>,
    end: Option<End>,
    bytes_max: usize,
    rows_max: usize,
    /// Values of each vector, once that is known.
    width: Option<u32>,
}

impl AnswerDecoder {
    /// For an answer of `rows_max` rows whose messages have at most `bytes_max` bytes. All its vectors have to be of
    /// one width: of `width` values, where the caller knows what it asked for.
    #[must_use]
    pub fn new(rows_max: usize, width: Option<u32>, bytes_max: usize) -> Self {
        Self { buffer: BytesMut::new(), rows: Vec::new(), end: None, bytes_max, rows_max, width }
    }

    /// Takes the next piece. What is whole within it is not copied.
    ///
    /// # Errors
    /// [`WireError`]: the answer is garbled and nothing of it counts.
    pub fn push(&mut self, mut piece: Bytes) -> Result<(), WireError> {
        if self.buffer.is_empty() {
            while let Some((delimiter, length)) = self.next_message(&piece)? {
                piece.advance(delimiter);
                self.take(piece.split_to(length))?;
            }
            self.buffer.extend_from_slice(&piece);
            return Ok(());
        }
        self.buffer.extend_from_slice(&piece);
        while let Some((delimiter, length)) = self.next_message(&self.buffer)? {
            self.buffer.advance(delimiter);
            let message = self.buffer.split_to(length).freeze();
            self.take(message)?;
        }
        Ok(())
    }

    /// The bytes of the delimiter and of the message that `bytes` begins with, when all of it is there.
    fn next_message(&self, bytes: &[u8]) -> Result<Option<(usize, usize)>, WireError> {
        let mut peek = bytes;
        let length = match prost::decode_length_delimiter(&mut peek) {
            Ok(length) => length,
            // A delimiter has at most ten bytes; fewer may be the start of one.
            Err(_) if bytes.len() < 10 => return Ok(None),
            Err(fault) => return Err(WireError::Decode(fault.to_string())),
        };
        if self.bytes_max < length {
            return Err(WireError::TooLong { bytes: length as u64, bytes_max: self.bytes_max });
        }
        Ok((length <= peek.len()).then_some((bytes.len() - peek.len(), length)))
    }

    fn take(&mut self, message: Bytes) -> Result<(), WireError> {
        let part = AnswerPart::decode(message).map_err(|fault| WireError::Decode(fault.to_string()))?;
        if self.end.is_some() {
            return Err(WireError::Inconsistent("a message after the end"));
        }
        if let Some(rows) = part.rows {
            self.take_rows(&rows)?;
        }
        self.end = part.end;
        Ok(())
    }

    fn take_rows(&mut self, rows: &Rows) -> Result<(), WireError> {
        if self.rows_max < self.rows.len() + rows.tokens.len() {
            return Err(WireError::Inconsistent("more rows than were asked for"));
        }
        if *self.width.get_or_insert(rows.dimensions) != rows.dimensions {
            return Err(WireError::Inconsistent("vectors of another width than was asked for"));
        }
        self.rows.extend(read_rows(rows)?);
        Ok(())
    }

    /// The whole answer, once its last piece was pushed.
    ///
    /// # Errors
    /// [`WireError::Inconsistent`] when the end is missing, or rows are missing from an answer that says it is done.
    pub fn finish(self) -> Result<(Vec<Embedding>, End), WireError> {
        let end = self.end.ok_or(WireError::Inconsistent("the answer has no end"))?;
        if end.verdict == verdict::DONE && self.rows.len() != self.rows_max {
            return Err(WireError::Inconsistent("fewer rows than were asked for"));
        }
        Ok((self.rows, end))
    }
}

/// Why what a peer says of its load is not known.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, thiserror::Error)]
pub enum ReportFault {
    /// Of a form that this version cannot read.
    #[error("it is of a form that this version does not know")]
    Form,
    /// Not the numbers that this form has.
    #[error("it is not made of the numbers that it should have")]
    Garbled,
    /// Numbers that cannot be true.
    #[error("its numbers cannot be true")]
    Absurd,
    /// The number of a report goes back, or it is that of another run of the process.
    #[error("it is older than what the same run of that node said before, or of another run")]
    Backwards,
}

impl ReportFault {
    /// Its name, for metrics.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Form => "form",
            Self::Garbled => "garbled",
            Self::Absurd => "absurd",
            Self::Backwards => "backwards",
        }
    }
}

/// `report` as text, for a header and for gossip: the form's name and decimal numbers, with points between.
#[must_use]
pub fn encode_report(report: &Report) -> String {
    let Report { boot, seq, wait, cost, standing, held, slots, busy, memory } = report;
    let (boot, wait, fixed, per_unit) = (boot.0, wait.get(), cost.fixed.get(), cost.per_unit_ns);
    let share = |share: &Option<Share>| share.map_or(SHARE_UNKNOWN, |share| share.get().into());
    let (standing, busy, memory) = (standing_number(*standing), share(busy), share(memory));
    format!("{REPORT_FORM}.{boot}.{seq}.{wait}.{fixed}.{per_unit}.{standing}.{held}.{slots}.{busy}.{memory}")
}

/// The report that [`encode_report`] wrote; further numbers, of a later version, are ignored.
///
/// # Errors
/// [`ReportFault`] for anything else, and for numbers that cannot be true.
pub fn decode_report(text: &str) -> Result<Report, ReportFault> {
    let numbers = text.strip_prefix(REPORT_FORM).and_then(|rest| rest.strip_prefix('.')).ok_or(ReportFault::Form)?;
    let report = read_numbers(numbers).ok_or(ReportFault::Garbled)?;
    if report.is_believable() { Ok(report) } else { Err(ReportFault::Absurd) }
}

fn read_numbers(text: &str) -> Option<Report> {
    // `parse` alone would take a sign.
    let number = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse::<u64>().ok())?;
    let mut numbers = text.split('.').map(number);
    let mut next = || numbers.next().flatten();
    let share = |number: u64| match number {
        SHARE_UNKNOWN => Some(None),
        percent => Some(Some(Share::percent(u8::try_from(percent).ok().filter(|&percent| percent <= 100)?))),
    };
    Some(Report {
        boot: BootId(next()?),
        seq: next()?,
        wait: Micros::new(next()?),
        cost: Cost { fixed: Micros::new(next()?), per_unit_ns: next()? },
        standing: standing_of(next()?),
        held: u32::try_from(next()?).ok()?,
        slots: u32::try_from(next()?).ok()?,
        busy: share(next()?)?,
        memory: share(next()?)?,
    })
}

fn standing_number(standing: Standing) -> u64 {
    match standing {
        Standing::Starting => 0,
        Standing::Ready => 1,
        Standing::Draining => 2,
        Standing::Wedged => 3,
        Standing::Failed => 4,
    }
}

/// A standing of a later version is one that takes no work.
fn standing_of(number: u64) -> Standing {
    Standing::ALL.into_iter().find(|&standing| standing_number(standing) == number).unwrap_or(Standing::Starting)
}

#[cfg(test)]
mod tests;
