//! By what name a server is called.

use std::net::IpAddr;

/// Whether the `Host` of a request is an address or `localhost`. A page of a stranger can have a name that leads to this
/// machine ("DNS rebinding"), but not these.
pub fn names_this_machine(host: &str) -> bool {
    let name = match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|b| b.is_ascii_digit()) => name,
        _ => host,
    };
    let address = name
        .strip_prefix('[')
        .and_then(|rest| rest.strip_suffix(']'));
    let address = address.unwrap_or(name).parse::<IpAddr>();
    address.is_ok() || name.eq_ignore_ascii_case("localhost")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_strangers_are_not_of_this_machine() {
        for host in [
            "localhost:5000",
            "localhost",
            "127.0.0.1:5000",
            "[::1]:5000",
            "[::1]",
            "10.0.0.1",
        ] {
            assert!(names_this_machine(host), "{host}");
        }
        for host in [
            "evil.example:5000",
            "localhost.evil.example",
            "127.0.0.1.evil.example",
            "",
        ] {
            assert!(!names_this_machine(host), "{host}");
        }
    }
}
