//! Defaults that depend on the machine or on other keys: directories of the user, addresses that follow addresses.
//!
//! Pure: the environment comes in as a map. For `config`.
//!
//! Invariants: what is filled in is written back into the raw configuration with its place, so that
//! `shoal config print` shows what really holds.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use super::Effective;
use super::problem::Place;

/// Values that always exist once defaults are filled in, although their keys may be unset.
#[derive(Debug)]
pub(super) struct Filled {
    pub(super) data_dir: PathBuf,
    pub(super) cache_dir: PathBuf,
    pub(super) api_advertise: SocketAddr,
    pub(super) peer_advertise: SocketAddr,
}

/// Fills in what nobody set.
pub(super) fn fill(effective: &mut Effective, environment: &BTreeMap<String, String>) -> Filled {
    let data_dir = effective.raw.node.data_dir.clone().unwrap_or_else(|| {
        let state = user_directory(environment, "XDG_STATE_HOME", ".local/state");
        let (path, place) = state.map_or_else(
            || (PathBuf::from("./shoal-data"), Place::Derived("the working directory")),
            |(state, source)| (state.join("shoal"), Place::Derived(source)),
        );
        effective.places.insert("node.data_dir", place);
        path
    });
    let cache_dir = effective.raw.model.cache_dir.clone().unwrap_or_else(|| {
        let cache = user_directory(environment, "XDG_CACHE_HOME", ".cache");
        let (path, place) = cache.map_or_else(
            || (data_dir.join("models"), Place::Derived("node.data_dir")),
            |(cache, source)| (cache.join("shoal/models"), Place::Derived(source)),
        );
        effective.places.insert("model.cache_dir", place);
        path
    });
    let peer_advertise = effective.raw.peer.advertise.unwrap_or_else(|| {
        effective.places.insert("peer.advertise", Place::Derived("peer.listen"));
        effective.raw.peer.listen
    });
    let api_advertise = effective.raw.api.advertise.unwrap_or_else(|| {
        let listen = effective.raw.api.listen;
        let (address, source) = if listen.ip().is_unspecified() {
            (SocketAddr::new(peer_advertise.ip(), listen.port()), "peer.advertise")
        } else {
            (listen, "api.listen")
        };
        effective.places.insert("api.advertise", Place::Derived(source));
        address
    });
    effective.raw.node.data_dir = Some(data_dir.clone());
    effective.raw.model.cache_dir = Some(cache_dir.clone());
    effective.raw.peer.advertise = Some(peer_advertise);
    effective.raw.api.advertise = Some(api_advertise);
    Filled { data_dir, cache_dir, api_advertise, peer_advertise }
}

/// A base directory by the XDG rules, where a relative path counts as unset; with what it follows.
fn user_directory(
    environment: &BTreeMap<String, String>,
    variable: &'static str,
    below_home: &str,
) -> Option<(PathBuf, &'static str)> {
    let absolute = |name: &str| environment.get(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let is_home = |path: &PathBuf| path.as_path() != Path::new("/");
    absolute(variable)
        .map(|path| (path, variable))
        .or_else(|| absolute("HOME").filter(is_home).map(|home| (home.join(below_home), "HOME")))
}
