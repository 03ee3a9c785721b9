//! Why a job went where it went, as the text of a header.
//!
//! Part of `shell`. Pure.
//! Invariants: printable ASCII, at most [`BYTES_MAX`]; what does not fit is left out, nodes that were not chosen first,
//! and the text says so.

use serde::Serialize;
use shoal_core::node::{Decision, Explanation};
use shoal_core::time::Micros;

/// Longest text. Many servers and clients take no longer header.
const BYTES_MAX: usize = 4096;
/// Nodes that one decision shows, until it fits.
const OPTIONS: [usize; 6] = [16, 8, 4, 2, 1, 0];

#[derive(Serialize)]
struct Told<'a> {
    node: &'a str,
    policy: &'static str,
    /// Some nodes were left out.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    cut: bool,
    /// The call was cut into so many, and these are the decisions about the first one.
    #[serde(skip_serializing_if = "is_whole")]
    chunks: u32,
    decisions: Vec<ToldDecision<'a>>,
}

#[derive(Serialize)]
struct ToldDecision<'a> {
    /// Since the job came.
    at_ms: Ms,
    chosen: &'a str,
    reason: &'static str,
    options: Vec<ToldOption<'a>>,
}

#[derive(Serialize)]
struct ToldOption<'a> {
    node: &'a str,
    completion_ms: Ms,
    wait_ms: Ms,
    rtt_ms: Ms,
    /// `null`: nothing was known of its load.
    age_ms: Option<Ms>,
}

/// Milliseconds with three places at most; longer than about an hour is one text for all.
struct Ms(Micros);

impl Serialize for Ms {
    fn serialize<S: serde::Serializer>(&self, out: S) -> Result<S::Ok, S::Error> {
        /// Exact in a double, and short in text.
        const LONGEST_US: u64 = 9_999_999_999;
        out.serialize_f64(self.0.get().min(LONGEST_US) as f64 / 1000.0)
    }
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde asks so")]
fn is_whole(chunks: &u32) -> bool {
    *chunks == 0
}

/// `explanation` of the node `node`, which decides by `policy`.
pub(super) fn text(node: &str, policy: &'static str, explanation: &Explanation) -> String {
    let sizes = OPTIONS.into_iter().map(|options_max| json(node, policy, explanation, options_max));
    let mut texts = sizes.skip_while(|text| BYTES_MAX < text.len());
    texts.next().unwrap_or_else(|| r#"{"cut":true}"#.to_owned())
}

fn json(node: &str, policy: &'static str, explanation: &Explanation, options_max: usize) -> String {
    let cut = explanation.decisions.iter().any(|decision| options_max < decision.options.len());
    let decision = |decision| told(decision, options_max);
    let chunks = explanation.chunks;
    let told = Told { node, policy, cut, chunks, decisions: explanation.decisions.iter().map(decision).collect() };
    serde_json::to_string(&told).expect("texts and finite numbers always have a JSON form")
}

fn told(decision: &Decision, options_max: usize) -> ToldDecision<'_> {
    let Decision { at, options, chosen, reason } = decision;
    let options = options.iter().take(options_max).map(|option| ToldOption {
        node: option.node.as_str(),
        completion_ms: Ms(option.completion),
        wait_ms: Ms(option.wait),
        rtt_ms: Ms(option.rtt),
        age_ms: option.age.map(Ms),
    });
    ToldDecision { at_ms: Ms(*at), chosen: chosen.as_str(), reason: reason.name(), options: options.collect() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use shoal_core::id::NodeId;
    use shoal_core::node::{NodeOption, OPTIONS_MAX, Reason};

    fn option(name: &str, completion: Micros, age: Option<Micros>) -> NodeOption {
        let (wait, rtt) = (Micros::new(1500), Micros::new(250));
        NodeOption { node: NodeId::new(name).unwrap(), completion, wait, rtt, age }
    }

    fn decision(options: Vec<NodeOption>, reason: Reason) -> Decision {
        Decision { at: Micros::new(70), chosen: options[0].node.clone(), options, reason }
    }

    #[test]
    fn it_reads_as_json_in_milliseconds() {
        let options = vec![option("b", Micros::new(12_345), None), option("a", Micros::MAX, Some(Micros::from_ms(3)))];
        let explanation = Explanation { decisions: vec![decision(options, Reason::PeerIsSooner)], chunks: 0 };
        assert_eq!(
            text("a", "adaptive", &explanation),
            r#"{"node":"a","policy":"adaptive","decisions":[{"at_ms":0.07,"chosen":"b","reason":"peer_is_sooner","options":[{"node":"b","completion_ms":12.345,"wait_ms":1.5,"rtt_ms":0.25,"age_ms":null},{"node":"a","completion_ms":9999999.999,"wait_ms":1.5,"rtt_ms":0.25,"age_ms":3.0}]}]}"#
        );
    }

    #[test]
    fn a_long_story_is_cut_to_what_a_header_carries_and_says_so() {
        let name = "n".repeat(64);
        let many = || vec![option(&name, Micros::MAX, Some(Micros::MAX)); OPTIONS_MAX];
        for decisions in 0..=9 {
            let decisions: Vec<_> = (0..decisions).map(|_| decision(many(), Reason::HereIsSoonEnough)).collect();
            let count = decisions.len();
            let text = text(&name, "dynamic_weight", &Explanation { decisions, chunks: 7 });
            assert!(text.len() <= BYTES_MAX && text.is_ascii(), "{} bytes", text.len());
            let told: serde_json::Value = serde_json::from_str(&text).unwrap();
            assert_eq!(told["decisions"].as_array().map(Vec::len), Some(count), "no decision is lost");
            assert_eq!(told["cut"] == true, 2 <= count, "{count} decisions: {text}");
        }
    }
}
