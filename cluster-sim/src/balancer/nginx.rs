//! The configuration of nginx that a benchmark is run against.
//!
//! Part of `balancer`. Pure. As good as nginx can be made for this task without changing what it does: connections are
//! kept on both sides, nothing is logged, workers share no accept queue.
//! Invariants: all paths are relative to the directory that nginx is started with, so nothing outside it is written.

use std::fmt::Write as _;

use super::{BalancerPlan, Method, Program};

/// Requests on one connection before nginx closes it; its default of 1,000 would measure dialling now and then.
const REQUESTS_PER_CONNECTION_MAX: u32 = 1_000_000_000;
/// Connections to the nodes that one worker keeps.
const IDLE_MAX: u32 = 512;

/// `as_root`: whether nginx runs as root, when its workers would be given to another user unless told.
pub(super) fn configuration(plan: &BalancerPlan, as_root: bool) -> String {
    let user = if as_root { "user root;\n" } else { "" };
    let method = match plan.method {
        // What it does unless told.
        Method::InTurn => String::new(),
        method => format!("        {};\n", Program::Nginx.method_name(method)),
    };
    let mut servers = String::new();
    for server in &plan.servers {
        let _ = writeln!(servers, "        server {} weight={};", server.address, server.weight);
    }
    let (workers, listen) = (plan.workers, plan.listen);
    format!(
        "\
daemon off;
{user}worker_processes {workers};
pid nginx.pid;
error_log error.log warn;
events {{
    worker_connections 4096;
}}
http {{
    access_log off;
    client_body_temp_path temporary-body;
    proxy_temp_path temporary-proxy;
    fastcgi_temp_path temporary-fastcgi;
    uwsgi_temp_path temporary-uwsgi;
    scgi_temp_path temporary-scgi;
    keepalive_requests {REQUESTS_PER_CONNECTION_MAX};
    upstream nodes {{
        zone nodes 256k;
{method}{servers}        keepalive {IDLE_MAX};
        keepalive_requests {REQUESTS_PER_CONNECTION_MAX};
    }}
    server {{
        listen {listen} reuseport;
        location / {{
            proxy_pass http://nodes;
            proxy_http_version 1.1;
            proxy_set_header Connection \"\";
        }}
    }}
}}
"
    )
}

#[cfg(test)]
mod tests {
    use super::super::tests::plan;
    use super::*;

    #[test]
    fn method_workers_addresses_and_weights_are_in_their_places() {
        let text = configuration(&plan(Method::LeastConnections), true);
        for part in [
            "user root;\nworker_processes 2;\n",
            "        zone nodes 256k;\n        least_conn;\n        server 127.0.0.1:1 weight=1;\n        \
             server 127.0.0.1:2 weight=5;\n        keepalive 512;\n",
            "listen 127.0.0.1:9 reuseport;",
        ] {
            assert!(text.contains(part), "{part} is not in:\n{text}");
        }
        assert_eq!(text.matches('{').count(), text.matches('}').count(), "{text}");
    }

    #[test]
    fn without_root_no_user_is_named_and_in_turn_is_no_method() {
        let text = configuration(&plan(Method::InTurn), false);
        for absent in ["user", "least_conn", "random"] {
            assert!(!text.contains(absent), "{absent} is in:\n{text}");
        }
    }

    #[test]
    fn no_path_leaves_the_directory() {
        assert!(
            !configuration(&plan(Method::Random), true)
                .replace("location / {", "")
                .replace("//nodes", "")
                .contains('/')
        );
    }
}
