//! The one table of what can be asked for: method and path to a call, its dialect and its name in metrics.
//!
//! For `request`. Pure. Invariants: names come from a fixed set, whatever path a caller sends; every path has a
//! dialect, so that a refusal can be worded before anything is known of the call.

use hyper::Method;

use super::error::{Dialect, Reason, Refusal};

/// Name in metrics of everything that is not in the table.
const OTHER: &str = "other";

/// What is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Call<'a> {
    TeiEmbed,
    TeiInfo,
    OpenAiEmbeddings,
    OpenAiModels,
    /// With the id as it stands in the path.
    OpenAiModel(&'a str),
    Livez,
    Readyz,
    Health,
    Status,
    Metrics,
    Index,
}

/// Where a request leads.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Found<'a> {
    pub(super) call: Result<Call<'a>, Refusal>,
    pub(super) dialect: Dialect,
    /// The route's name in metrics.
    pub(super) name: &'static str,
}

/// The paths, for people who ask for `/` or for something that is not there.
pub(super) const ENDPOINTS: &[&str] = &[
    "POST /embed",
    "POST /v1/embeddings",
    "GET /v1/models",
    "GET /info",
    "GET /livez",
    "GET /readyz",
    "GET /health",
    "GET /status",
    "GET /metrics",
];

/// Looks up one request; a `HEAD` is a `GET` whose body is not sent.
pub(super) fn find<'a>(method: &Method, path: &'a str) -> Found<'a> {
    use Dialect::{OpenAi, Tei};
    let (call, dialect, name) = match path {
        "/embed" => (Call::TeiEmbed, Tei, "/embed"),
        "/info" => (Call::TeiInfo, Tei, "/info"),
        "/v1/embeddings" | "/embeddings" => (Call::OpenAiEmbeddings, OpenAi, "/v1/embeddings"),
        "/v1/models" => (Call::OpenAiModels, OpenAi, "/v1/models"),
        "/livez" => (Call::Livez, Tei, "/livez"),
        "/readyz" => (Call::Readyz, Tei, "/readyz"),
        "/health" => (Call::Health, Tei, "/health"),
        "/status" => (Call::Status, Tei, "/status"),
        "/metrics" => (Call::Metrics, Tei, "/metrics"),
        "/" => (Call::Index, Tei, "/"),
        _ => match path.strip_prefix("/v1/models/") {
            Some(id) if !id.is_empty() => (Call::OpenAiModel(id), OpenAi, "/v1/models/{id}"),
            Some(_) | None => return no_such_path(path),
        },
    };
    let call = match (call, method.as_str()) {
        (Call::TeiEmbed | Call::OpenAiEmbeddings, "POST") => Ok(call),
        (Call::TeiEmbed | Call::OpenAiEmbeddings, _) => Err(method_not_allowed(method, "POST")),
        (_, "GET" | "HEAD") => Ok(call),
        (_, _) => Err(method_not_allowed(method, "GET, HEAD")),
    };
    Found { call, dialect, name }
}

fn no_such_path(path: &str) -> Found<'_> {
    let dialect = if path == "/v1" || path.starts_with("/v1/") { Dialect::OpenAi } else { Dialect::Tei };
    let message = format!("there is nothing at this path; there is {}", ENDPOINTS.join(", "));
    Found { call: Err(Refusal::new(Reason::NoSuchPath, message)), dialect, name: OTHER }
}

fn method_not_allowed(method: &Method, allow: &'static str) -> Refusal {
    // A method can be as long as the header section.
    let shown: String = method.as_str().chars().take(20).collect();
    let mut refusal =
        Refusal::new(Reason::MethodNotAllowed, format!("the method {shown} is not allowed here; use {allow}"));
    refusal.allow = Some(allow);
    refusal
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_path_leads_to_its_call() {
        let cases = [
            ("POST", "/embed", Call::TeiEmbed, Dialect::Tei, "/embed"),
            ("POST", "/v1/embeddings", Call::OpenAiEmbeddings, Dialect::OpenAi, "/v1/embeddings"),
            ("POST", "/embeddings", Call::OpenAiEmbeddings, Dialect::OpenAi, "/v1/embeddings"),
            ("GET", "/v1/models", Call::OpenAiModels, Dialect::OpenAi, "/v1/models"),
            ("GET", "/v1/models/a/b", Call::OpenAiModel("a/b"), Dialect::OpenAi, "/v1/models/{id}"),
            ("GET", "/info", Call::TeiInfo, Dialect::Tei, "/info"),
            ("HEAD", "/livez", Call::Livez, Dialect::Tei, "/livez"),
            ("GET", "/readyz", Call::Readyz, Dialect::Tei, "/readyz"),
            ("GET", "/health", Call::Health, Dialect::Tei, "/health"),
            ("GET", "/status", Call::Status, Dialect::Tei, "/status"),
            ("GET", "/metrics", Call::Metrics, Dialect::Tei, "/metrics"),
            ("GET", "/", Call::Index, Dialect::Tei, "/"),
        ];
        for (method, path, call, dialect, name) in cases {
            let method = Method::from_bytes(method.as_bytes()).unwrap();
            assert_eq!(find(&method, path), Found { call: Ok(call), dialect, name }, "{method} {path}");
        }
    }

    #[test]
    fn other_methods_are_told_what_is_allowed() {
        let cases = [("GET", "/embed", "POST"), ("PUT", "/v1/embeddings", "POST"), ("POST", "/metrics", "GET, HEAD")];
        for (method, path, allow) in cases {
            let method = Method::from_bytes(method.as_bytes()).unwrap();
            let refusal = find(&method, path).call.unwrap_err();
            assert_eq!((refusal.reason, refusal.allow), (Reason::MethodNotAllowed, Some(allow)), "{method} {path}");
        }
    }

    #[test]
    fn other_paths_are_refused_in_a_dialect_and_share_one_name() {
        let cases = [
            ("/v1", Dialect::OpenAi),
            ("/v1/", Dialect::OpenAi),
            ("/v1/models/", Dialect::OpenAi),
            ("/v1/chat/completions", Dialect::OpenAi),
            ("/embed/", Dialect::Tei),
            ("//embed", Dialect::Tei),
            ("/EMBED", Dialect::Tei),
            ("*", Dialect::Tei),
            ("", Dialect::Tei),
        ];
        for (path, dialect) in cases {
            let found = find(&Method::GET, path);
            assert_eq!((found.dialect, found.name), (dialect, OTHER), "{path}");
            assert_eq!(found.call.unwrap_err().reason, Reason::NoSuchPath, "{path}");
        }
    }
}
