//! What must hold between keys, beyond the range of each.
//!
//! Pure. For `config`.
//!
//! Invariants: nothing is said about a key whose own value did not pass; the line names the key that somebody set,
//! not the default that it clashes with.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};

use shoal_core::route::Policy;

use super::Effective;
use super::defaults::Filled;
use super::problem::{ConfigError, Place};

/// What a message between peers holds beside the texts: ids, lengths, the model's name.
const MESSAGE_OVERHEAD_BYTES: u64 = 65_536;

/// All relations that do not hold.
pub(super) fn check(effective: &Effective, filled: &Filled, broken: &BTreeSet<&'static str>) -> Vec<ConfigError> {
    let mut check = Check { effective, broken, errors: Vec::new() };
    check.numbers();
    check.weights();
    check.peer_addresses(filled);
    check.api_address(filled);
    check.doors();
    check.seeds(filled);
    check.errors
}

struct Check<'a> {
    effective: &'a Effective,
    broken: &'a BTreeSet<&'static str>,
    errors: Vec<ConfigError>,
}

impl Check<'_> {
    fn numbers(&mut self) {
        let raw = &self.effective.raw;
        let (default, max) = (raw.admission.deadline_ms_default, raw.admission.deadline_ms_max);
        let (settle, limit) = (raw.drain.settle_ms, raw.drain.limit_ms);
        let (body, held, message) = (raw.api.body_bytes_max, raw.admission.bytes_max, raw.peer.message_bytes_max);
        self.at_most(("admission.deadline_ms_default", default.into()), ("admission.deadline_ms_max", max.into()), 0);
        self.at_most(("drain.settle_ms", settle.into()), ("drain.limit_ms", limit.into()), 0);
        self.at_most(("api.body_bytes_max", body), ("admission.bytes_max", held), 0);
        self.at_most(("api.body_bytes_max", body), ("peer.message_bytes_max", message), MESSAGE_OVERHEAD_BYTES);
        let (window, window_max) = (raw.breaker.sleep_window_ms, raw.breaker.sleep_window_ms_max);
        self.at_most(("breaker.sleep_window_ms", window.into()), ("breaker.sleep_window_ms_max", window_max.into()), 0);
        // Whoever has no more time than it takes to notice that a peer is silent is never served by a second node.
        let patience = [
            ("peer.ping_timeout_ms", raw.peer.ping_timeout_ms),
            ("peer.accept_timeout_ms", raw.peer.accept_timeout_ms),
            ("peer.connect_timeout_ms", raw.peer.connect_timeout_ms),
        ];
        let (slowest, limit) = patience.into_iter().max_by_key(|(_, limit)| *limit).expect("there are three");
        self.at_most((slowest, limit.into()), ("admission.deadline_ms_default", default.into()), 0);
        let (leave, enter) = (raw.routing.hot_leave_percent, raw.routing.hot_enter_percent);
        if enter <= leave {
            let hot = [("routing.hot_leave_percent", leave), ("routing.hot_enter_percent", enter)];
            self.upside_down(hot);
        }
    }

    /// The two bounds of the 75 % rule: with nothing between them a node would be hot and cool at the same time.
    fn upside_down(&mut self, [(leave, low), (enter, high)]: [(&'static str, u32); 2]) {
        if self.place(leave).is_set() || !self.place(enter).is_set() {
            let problem = format!("{low} is not below {enter} = {high} ({})", self.place(enter));
            self.report([leave, enter], problem, format!("lower it, or raise {enter}"));
        } else {
            let problem = format!("{high} is not above {leave} = {low} ({})", self.place(leave));
            self.report([enter, leave], problem, format!("raise it, or lower {leave}"));
        }
    }

    /// A node that computes nothing has to have somebody who does.
    fn weights(&mut self) {
        let raw = &self.effective.raw;
        if 0 < raw.node.weight {
            return;
        }
        let (weight, seeds) = (self.place("node.weight"), self.place("gossip.seeds"));
        if raw.gossip.seeds.is_empty() {
            let problem = format!("0 leaves all work to peers, and gossip.seeds ({seeds}) names none");
            let fix = "name a peer in gossip.seeds (--seed), or raise it";
            self.report(["node.weight", "gossip.seeds"], problem, fix);
        }
        if raw.node.backup {
            let problem = format!("a node that never computes (node.weight = 0, {weight}) is nobody's backup");
            self.report(["node.backup", "node.weight"], problem, "set it to false, or raise node.weight");
        }
        if raw.routing.policy == Policy::Local {
            let problem = format!("local keeps all calls on a node that computes none (node.weight = 0, {weight})");
            self.report(["routing.policy", "node.weight"], problem, "choose another policy, or raise node.weight");
        }
    }

    /// `small` plus `reserve` must be at most `large`.
    fn at_most(&mut self, small: (&'static str, u64), large: (&'static str, u64), reserve: u64) {
        if small.1.saturating_add(reserve) <= large.1 {
            return;
        }
        let plus = if reserve == 0 { String::new() } else { format!(" plus {reserve}") };
        // The key that somebody set is the one to mend; with both set, the first.
        if self.place(small.0).is_set() || !self.place(large.0).is_set() {
            let problem = format!("{}{plus} is above {} = {} ({})", small.1, large.0, large.1, self.place(large.0));
            self.report([small.0, large.0], problem, format!("lower it, or raise {}", large.0));
        } else {
            let problem = format!("{} is below {} = {}{plus} ({})", large.1, small.0, small.1, self.place(small.0));
            self.report([large.0, small.0], problem, format!("raise it, or lower {}", small.0));
        }
    }

    fn peer_addresses(&mut self, filled: &Filled) {
        let (listen, advertise) = (self.effective.raw.peer.listen, filled.peer_advertise);
        if !listen.ip().is_unspecified() && !is_private(listen.ip()) {
            self.public("peer.listen", listen);
        }
        if !self.place("peer.advertise").is_set() {
            if listen.ip().is_unspecified() {
                let problem = format!("{listen} is every address of this machine, which tells peers nothing");
                let fix = "set peer.advertise (--advertise) to the IP:PORT at which peers reach this node";
                self.report(["peer.listen", "peer.advertise"], problem, fix);
            }
        } else if advertise.ip().is_unspecified() {
            let problem = format!("{advertise} is no address that a peer can reach");
            self.report(["peer.advertise"], problem, "write the IP:PORT at which peers reach this node");
        } else if !is_private(advertise.ip()) {
            self.public("peer.advertise", advertise);
        }
    }

    fn public(&mut self, key: &'static str, address: SocketAddr) {
        let problem = format!(
            "{address} is neither loopback nor private, and the traffic between peers is not encrypted yet (no TLS)"
        );
        let fix = "write an address of a private range, such as 10.0.0.0/8, 172.16.0.0/12, 192.168.0.0/16 or fd00::/8";
        self.report([key], problem, fix);
    }

    fn api_address(&mut self, filled: &Filled) {
        let advertise = filled.api_advertise;
        if self.place("api.advertise").is_set() && advertise.ip().is_unspecified() {
            let problem = format!("{advertise} is no address that anybody can reach");
            self.report(["api.advertise"], problem, "write the IP:PORT at which callers reach this node");
        }
    }

    /// Two listeners cannot share one TCP port.
    fn doors(&mut self) {
        let (api, peer) = (self.effective.raw.api.listen, self.effective.raw.peer.listen);
        let overlap = api.ip() == peer.ip() || api.ip().is_unspecified() || peer.ip().is_unspecified();
        if api.port() == peer.port() && overlap {
            let (this, other) = if self.place("peer.listen").is_set() {
                ("peer.listen", "api.listen")
            } else {
                ("api.listen", "peer.listen")
            };
            let problem = format!("port {} is also that of {other} ({})", api.port(), self.place(other));
            self.report([this, other], problem, "give the two different ports");
        }
    }

    /// A node that tells its peers "I am at 127.0.0.1" cannot be reached from another machine.
    fn seeds(&mut self, filled: &Filled) {
        if !filled.peer_advertise.ip().is_loopback() {
            return;
        }
        let elsewhere = |seed: &&String| seed.parse::<SocketAddr>().is_ok_and(|seed| !seed.ip().is_loopback());
        if let Some(seed) = self.effective.raw.gossip.seeds.iter().find(elsewhere) {
            let problem = format!(
                "{seed} is on another machine, which cannot reach this node at {} (peer.advertise, {})",
                filled.peer_advertise,
                self.place("peer.advertise"),
            );
            let fix = "set peer.listen (--peer-listen) to this machine's own IP:PORT";
            self.report(["gossip.seeds", "peer.listen", "peer.advertise"], problem, fix);
        }
    }

    fn place(&self, key: &str) -> Place {
        self.effective.place(key).clone()
    }

    /// Reports about the first of `keys`, unless one of them is broken anyway.
    fn report<const N: usize>(&mut self, keys: [&'static str; N], problem: String, fix: impl Into<String>) {
        if keys.iter().all(|key| !self.broken.contains(key)) {
            self.errors.push(self.effective.error(keys[0], problem, fix));
        }
    }
}

/// Loopback, RFC 1918, RFC 4193 or link-local: where plain traffic between peers is allowed.
fn is_private(ip: IpAddr) -> bool {
    match ip.to_canonical() {
        IpAddr::V4(ip) => ip.is_loopback() || ip.is_private() || ip.is_link_local(),
        IpAddr::V6(ip) => ip.is_loopback() || ip.is_unique_local() || ip.is_unicast_link_local(),
    }
}
