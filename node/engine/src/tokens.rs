//! From text to token ids: the row that the encoder sees for a text.
//!
//! For `embedder`. The model's own limit and the caller's wish decide what is cut; a packed batch has no padding.
//! Invariants: every id is below the word table's rows; a row has at most `tokens_max` tokens, special ones included;
//! cutting a long text into windows never changes its ids (test `windows_give_the_ids_of_the_whole_text`).

use std::path::Path;

use tokenizers::{Encoding, NormalizerWrapper, PreTokenizerWrapper, Token, Tokenizer};

use crate::directory::{Directory, broken};
use crate::revision::Fingerprint;
use crate::tokenizer_file::{self, TokenizerSettings};
use crate::{EngineError, RowError, Truncation};

/// Bytes of text that are tokenised at a time for each token that the model takes; most words have fewer.
const WINDOW_BYTES_PER_TOKEN: usize = 8;
const WINDOW_BYTES_MIN: usize = 4096;

/// One text as the encoder takes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct TokenRow {
    pub(crate) ids: Vec<u32>,
    pub(crate) type_ids: Vec<u32>,
}

/// A tokenizer bound to one model.
#[derive(Debug)]
pub(crate) struct TextTokenizer {
    tokenizer: Tokenizer,
    frame: Frame,
    tokens_max: usize,
    lowercase: bool,
    vocab_size: usize,
    windows: Option<Windows>,
}

/// The special tokens that go before and after a text.
#[derive(Debug)]
struct Frame {
    before: Vec<u32>,
    after: Vec<u32>,
    type_before: Vec<u32>,
    type_of_text: u32,
    type_after: Vec<u32>,
}

/// How a long text may be cut without a change of its ids.
#[derive(Clone, Copy, Debug)]
struct Windows {
    bytes: usize,
    /// The normaliser sets every CJK character apart, so the text may be cut after one.
    after_cjk: bool,
}

/// What the rest of the model's files say about its tokenizer.
#[derive(Clone, Copy, Debug)]
pub(crate) struct TokenizerBounds {
    /// Longest row in tokens, special tokens included.
    pub(crate) tokens_max: usize,
    /// sentence-transformers' own lower-casing, before the tokenizer's.
    pub(crate) lowercase: bool,
    /// Rows of the word table.
    pub(crate) vocab_size: usize,
    /// Rows of the table of token types.
    pub(crate) token_types: usize,
}

impl TextTokenizer {
    /// Loads the tokenizer of a model and checks it against the model.
    ///
    /// # Errors
    /// [`EngineError::Model`] if there is none, it does not parse, lacks a token that it needs, or has ids for which
    /// the word table has no row.
    pub(crate) fn load(
        directory: &Directory,
        settings: &TokenizerSettings,
        bounds: TokenizerBounds,
        fingerprint: &mut Fingerprint,
    ) -> Result<Self, EngineError> {
        let (place, tokenizer) = tokenizer_file::open(directory, settings, fingerprint)?;
        fingerprint.flag("lowercase", bounds.lowercase);
        check_ids(&place, &tokenizer, bounds.vocab_size)?;
        let frame = Frame::of(&place, &tokenizer, bounds)?;
        let windows = Windows::of(&tokenizer, bounds.tokens_max);
        Ok(Self {
            tokenizer,
            frame,
            tokens_max: bounds.tokens_max,
            lowercase: bounds.lowercase,
            vocab_size: bounds.vocab_size,
            windows,
        })
    }

    /// The tokens of one text.
    ///
    /// Cost: for a tokenizer of BERT's kind about the tokens kept, else the whole text; `Refuse` always the whole text.
    ///
    /// # Errors
    /// [`RowError::TooLong`] if truncation is refused; [`RowError::Unsupported`] for a text that the tokenizer refuses.
    pub(crate) fn row(&self, text: &str, truncation: Truncation) -> Result<TokenRow, RowError> {
        let room = self.tokens_max - self.frame.tokens();
        let content = match truncation {
            Truncation::Right => self.first_tokens(text, room)?,
            Truncation::Left => self.last_tokens(text, room)?,
            Truncation::Refuse => self.all_tokens(text, room)?,
        };
        let row = self.frame.around(&content);
        // The tokenizer was checked when it was loaded; this is what keeps a surprise of its from the word table.
        match row.ids.iter().find(|id| self.vocab_size <= **id as usize) {
            Some(id) => {
                Err(RowError::Unsupported(format!("the tokenizer gave id {id}, which the model does not know")))
            }
            None => Ok(row),
        }
    }

    fn first_tokens(&self, text: &str, room: usize) -> Result<Vec<u32>, RowError> {
        let (mut ids, mut rest) = (Vec::new(), text);
        while !rest.is_empty() && ids.len() < room {
            let (window, after) = rest.split_at(self.cut_near(rest, |windows| windows.end_of_first(rest)));
            ids.extend(self.ids(window)?);
            rest = after;
        }
        ids.truncate(room);
        Ok(ids)
    }

    fn last_tokens(&self, text: &str, room: usize) -> Result<Vec<u32>, RowError> {
        let (mut parts, mut count, mut rest) = (Vec::new(), 0, text);
        while !rest.is_empty() && count < room {
            let start = self.windows.map_or(0, |windows| windows.start_of_last(rest));
            let (before, window) = rest.split_at(start);
            let ids = self.ids(window)?;
            count += ids.len();
            parts.push(ids);
            rest = before;
        }
        let ids: Vec<u32> = parts.into_iter().rev().flatten().collect();
        Ok(ids[ids.len().saturating_sub(room)..].to_vec())
    }

    fn all_tokens(&self, text: &str, room: usize) -> Result<Vec<u32>, RowError> {
        let (mut ids, mut count, mut rest) = (Vec::new(), 0, text);
        while !rest.is_empty() {
            let (window, after) = rest.split_at(self.cut_near(rest, |windows| windows.end_of_first(rest)));
            let found = self.ids(window)?;
            count += found.len();
            // Beyond the limit only the number matters, and a hostile text must not fill the memory with ids.
            if count <= room {
                ids.extend(found);
            }
            rest = after;
        }
        if room < count {
            let tokens = |count: usize| u32::try_from(count).unwrap_or(u32::MAX);
            return Err(RowError::TooLong {
                tokens: tokens(count + self.frame.tokens()),
                tokens_max: tokens(self.tokens_max),
            });
        }
        Ok(ids)
    }

    fn cut_near(&self, rest: &str, cut: impl FnOnce(Windows) -> usize) -> usize {
        self.windows.map_or(rest.len(), cut)
    }

    fn ids(&self, window: &str) -> Result<Vec<u32>, RowError> {
        let encoding = if self.lowercase {
            self.tokenizer.encode_fast(window.to_lowercase(), false)
        } else {
            self.tokenizer.encode_fast(window, false)
        };
        match encoding {
            Ok(encoding) => Ok(encoding.get_ids().to_vec()),
            Err(cause) => Err(RowError::Unsupported(format!("the tokenizer cannot take this text: {cause}"))),
        }
    }
}

impl Frame {
    /// Finds out what the tokenizer puts around a text, by giving it one that has an impossible id.
    fn of(place: &Path, tokenizer: &Tokenizer, bounds: TokenizerBounds) -> Result<Self, EngineError> {
        const TEXT: u32 = u32::MAX;
        let text = Encoding::from_tokens(vec![Token::new(TEXT, String::new(), (0, 0))], 0);
        let framed = tokenizer
            .post_process(text, None, true)
            .map_err(|cause| broken(place, format!("cannot add its special tokens: {cause}")))?;
        let (ids, types) = (framed.get_ids(), framed.get_type_ids());
        let Some(at) = ids.iter().position(|id| *id == TEXT) else {
            return Err(broken(place, "drops the text when it adds special tokens; its post_processor is wrong"));
        };
        let frame = Self {
            before: ids[..at].to_vec(),
            after: ids[at + 1..].to_vec(),
            type_before: types[..at].to_vec(),
            type_of_text: types[at],
            type_after: types[at + 1..].to_vec(),
        };
        if bounds.tokens_max <= frame.tokens() {
            let what = format!("adds {} special tokens, the model takes {} in all", frame.tokens(), bounds.tokens_max);
            return Err(broken(place, what));
        }
        if let Some(wrong) = types.iter().find(|kind| bounds.token_types <= **kind as usize) {
            return Err(broken(place, format!("gives token type {wrong}, the model has {} types", bounds.token_types)));
        }
        if let Some(wrong) = frame.before.iter().chain(&frame.after).find(|id| bounds.vocab_size <= **id as usize) {
            return Err(broken(place, format!("adds the special token {wrong}, which the model does not know")));
        }
        Ok(frame)
    }

    fn tokens(&self) -> usize {
        self.before.len() + self.after.len()
    }

    fn around(&self, content: &[u32]) -> TokenRow {
        let type_of_content = vec![self.type_of_text; content.len()];
        TokenRow {
            ids: [&self.before, content, &self.after].concat(),
            type_ids: [&self.type_before, type_of_content.as_slice(), &self.type_after].concat(),
        }
    }
}

impl Windows {
    /// `None` for a tokenizer that may join characters across white space.
    fn of(tokenizer: &Tokenizer, tokens_max: usize) -> Option<Self> {
        let Some(PreTokenizerWrapper::BertPreTokenizer(_)) = tokenizer.get_pre_tokenizer() else {
            return None;
        };
        let Some(NormalizerWrapper::BertNormalizer(normalizer)) = tokenizer.get_normalizer() else {
            return None;
        };
        let is_cut = |character: char| character.is_whitespace() || is_cjk(character);
        if tokenizer.get_added_tokens_decoder().values().any(|token| token.content.contains(is_cut)) {
            return None;
        }
        let bytes = tokens_max.saturating_mul(WINDOW_BYTES_PER_TOKEN).max(WINDOW_BYTES_MIN);
        Some(Self { bytes, after_cjk: normalizer.handle_chinese_chars })
    }

    /// Whether the text may be cut behind `character`.
    fn cuts_behind(self, character: char) -> bool {
        matches!(character, ' ' | '\t' | '\n') || (self.after_cjk && is_cjk(character))
    }

    /// Where the first window of `text` ends: at the first good place that is far enough, else at the text's end.
    fn end_of_first(self, text: &str) -> usize {
        text.char_indices()
            .skip_while(|(at, _)| *at < self.bytes)
            .find(|(_, character)| self.cuts_behind(*character))
            .map_or(text.len(), |(at, character)| at + character.len_utf8())
    }

    /// Where the last window of `text` starts: at the last good place that is far enough from the end, else at 0.
    ///
    /// Below the text's length, so that a text gets shorter with each window.
    fn start_of_last(self, text: &str) -> usize {
        let start_max = text.len().saturating_sub(self.bytes);
        text.char_indices()
            .rev()
            .filter(|(_, character)| self.cuts_behind(*character))
            .map(|(at, character)| at + character.len_utf8())
            .find(|start| *start <= start_max)
            .unwrap_or(0)
    }
}

/// A common Chinese character: a subset of those that BERT's normaliser sets apart.
fn is_cjk(character: char) -> bool {
    matches!(character, '\u{4E00}'..='\u{9FFF}')
}

/// Every id that the tokenizer can give must have a row in the word table.
fn check_ids(place: &Path, tokenizer: &Tokenizer, vocab_size: usize) -> Result<(), EngineError> {
    match tokenizer.get_vocab(true).into_iter().max_by_key(|(_, id)| *id) {
        None => Err(broken(place, "has no tokens; fetch the file again")),
        Some((token, id)) if vocab_size <= id as usize => Err(broken(
            place,
            format!(
                "gives `{token}` the id {id}, but config.json has vocab_size {vocab_size}; \
                 the tokenizer and the weights are not of the same model"
            ),
        )),
        Some(_) => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::{TextTokenizer, TokenizerBounds, Windows};
    use crate::Truncation;
    use crate::directory::Directory;
    use crate::revision::Fingerprint;
    use crate::tokenizer_file::read_settings;

    fn tokenizer(window_bytes: Option<usize>) -> TextTokenizer {
        let fixture = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures/st-mean");
        let directory = Directory::open(&fixture).unwrap();
        let settings = read_settings(&directory).unwrap();
        let bounds = TokenizerBounds { tokens_max: 40, lowercase: false, vocab_size: 267, token_types: 2 };
        let mut tokenizer = TextTokenizer::load(&directory, &settings, bounds, &mut Fingerprint::new()).unwrap();
        assert!(tokenizer.windows.is_some(), "a tokenizer of BERT's kind is windowed");
        tokenizer.windows = window_bytes.map(|bytes| Windows { bytes, after_cjk: true });
        tokenizer
    }

    #[test]
    fn windows_give_the_ids_of_the_whole_text() {
        let texts = [
            String::new(),
            " ".repeat(300),
            "hello world, the battery lasts 2 days. ".repeat(20),
            "北京冬奥会在北京举行。产品的质量非常好,我非常满意!".repeat(9),
            "nospacesatall".repeat(50),
            "😀 e\u{301}ｅ [SEP] [MASK]\tx\n北\u{301} 京\u{200d}a\u{3000}b[CLS]".repeat(30),
            "a 北b京 c".repeat(60),
        ];
        let whole = tokenizer(None);
        for bytes in [1, 2, 3, 7, 50, 400] {
            let windowed = tokenizer(Some(bytes));
            for text in &texts {
                for truncation in [Truncation::Right, Truncation::Left, Truncation::Refuse] {
                    let (left, right) = (windowed.row(text, truncation), whole.row(text, truncation));
                    assert_eq!(left, right, "{truncation:?} with windows of {bytes} bytes: {text:.60}");
                }
            }
        }
    }
}
