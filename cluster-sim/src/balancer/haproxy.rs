//! The configuration of HAProxy that a benchmark is run against.
//!
//! Part of `balancer`. Pure. As good as HAProxy can be made for this task without changing what it does: connections
//! are kept on both sides and shared between threads, nothing is logged.
//! Not here: starting it (`balancer`).

use std::fmt::Write as _;

use super::{BalancerPlan, Program};

/// Connections at one time; each needs two file descriptors, and a limit of 4,096 of those is common.
const CONNECTIONS_MAX: u32 = 1500;

pub(super) fn configuration(plan: &BalancerPlan) -> String {
    let method = Program::HaProxy.method_name(plan.method);
    let mut servers = String::new();
    for (index, server) in plan.servers.iter().enumerate() {
        let _ = writeln!(servers, "    server node-{} {} weight {}", index + 1, server.address, server.weight);
    }
    let (workers, listen) = (plan.workers, plan.listen);
    format!(
        "\
global
    nbthread {workers}
    maxconn {CONNECTIONS_MAX}
defaults
    mode http
    option http-keep-alive
    http-reuse always
    timeout connect 1s
    timeout client 60s
    timeout server 60s
frontend callers
    bind {listen}
    default_backend nodes
backend nodes
    balance {method}
{servers}"
    )
}

#[cfg(test)]
mod tests {
    use super::super::Method;
    use super::super::tests::plan;
    use super::*;

    #[test]
    fn method_threads_addresses_and_weights_are_in_their_places() {
        let text = configuration(&plan(Method::LeastConnections));
        for part in [
            "    nbthread 2\n",
            "    bind 127.0.0.1:9\n",
            "    balance leastconn\n    server node-1 127.0.0.1:1 weight 1\n    server node-2 127.0.0.1:2 weight 5\n",
        ] {
            assert!(text.contains(part), "{part} is not in:\n{text}");
        }
        for (method, word) in [(Method::InTurn, "balance roundrobin\n"), (Method::Random, "balance random\n")] {
            assert!(configuration(&plan(method)).contains(word), "{word}");
        }
    }
}
