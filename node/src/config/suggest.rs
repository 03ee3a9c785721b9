//! "Did you mean": the known name that is closest to a mistyped one.
//!
//! Pure. For `layers` and `rule`.
//!
//! Invariant: the cost is bounded, because a name that is longer than any known one is not compared.

use super::keys::{self, SECTIONS};

/// No known name comes near this length.
const NAME_BYTES_MAX: usize = 64;

/// Below this likeness (0 to 1) a suggestion confuses more than it helps.
const LIKENESS_MIN: f64 = 0.7;

/// What to do about the unknown key `given` (`section.name` or a bare name).
pub(super) fn for_key(given: &str) -> String {
    let last = given.rsplit('.').next().unwrap_or(given);
    let nearest = nearest(given, last, keys::keys().map(|key| (key.path.to_owned(), key.name())));
    phrase(nearest, "remove it, or see `shoal config sample` for every key")
}

/// What to do about the unknown section `given`.
pub(super) fn for_section(given: &str) -> String {
    let nearest = nearest(given, given, SECTIONS.iter().map(|section| (section.name.to_owned(), section.name)));
    phrase(nearest, "remove it, or see `shoal config sample` for every section")
}

/// What to do about the unknown environment variable `given`.
pub(super) fn for_variable(given: &str) -> String {
    let last = given.rsplit("__").next().unwrap_or(given);
    let nearest = nearest(given, last, keys::keys().map(|key| (key.variable(), key.name())));
    phrase(nearest, "remove it: variables with the prefix SHOAL__ set keys only")
}

/// The one of `words` that is most like `given`, if any is.
pub(super) fn among<'a>(given: &str, words: &[&'a str]) -> Option<&'a str> {
    if NAME_BYTES_MAX < given.len() {
        return None;
    }
    let likeness = |word: &str| strsim::jaro_winkler(&given.to_lowercase(), word);
    let best = words.iter().max_by(|one, other| likeness(one).total_cmp(&likeness(other)))?;
    (LIKENESS_MIN <= likeness(best)).then_some(*best)
}

fn phrase(nearest: Option<String>, otherwise: &str) -> String {
    nearest.map_or_else(|| otherwise.to_owned(), |name| format!("did you mean `{name}`?"))
}

/// The candidate (whole, last part) that is most like the given one: as a whole, with its words in another order, or,
/// which counts a little less, by the last part alone.
fn nearest(given: &str, last: &str, candidates: impl Iterator<Item = (String, &'static str)>) -> Option<String> {
    if NAME_BYTES_MAX < given.len() {
        return None;
    }
    let (given, last) = (given.to_lowercase(), last.to_lowercase());
    let (likeness, name) = candidates
        .map(|(whole, whole_last)| {
            let lower = whole.to_lowercase();
            let as_whole = strsim::normalized_damerau_levenshtein(&given, &lower);
            let as_words = strsim::normalized_damerau_levenshtein(&sorted_words(&given), &sorted_words(&lower));
            let by_last = 0.95 * strsim::normalized_damerau_levenshtein(&last, whole_last);
            (as_whole.max(as_words).max(by_last), whole)
        })
        .reduce(|best, next| if best.0 < next.0 { next } else { best })?;
    (LIKENESS_MIN <= likeness).then_some(name)
}

fn sorted_words(name: &str) -> String {
    let mut words: Vec<_> = name.split(['.', '_', '-']).filter(|word| !word.is_empty()).collect();
    words.sort_unstable();
    words.join(" ")
}
