//! Options about what network namespaces are tied to.

use crate::options::{NetOptions, OuterEnd};

use super::UsageError;
use super::grammar::Given;

pub(super) fn options(given: &Given) -> Result<NetOptions, UsageError> {
    let mut options = NetOptions::default();
    for value in given.values::<String>("external") {
        let bad = || {
            let forms = "it is veth[IN]:OUT, veth[IN]:OUT@BRIDGE or macvlan[IN]:OUT";
            UsageError::bad_value("--external RESOURCE", &value, forms)
        };
        if let Some(pair) = value.strip_prefix("veth[") {
            options.pairs.push(outer_end(pair, "]:").ok_or_else(bad)?);
        } else if let Some(pair) = value.strip_prefix("macvlan[") {
            options.macvlans.push(outer_end(pair, "]:").ok_or_else(bad)?);
        }
    }
    for value in given.values::<String>("veth-pair") {
        let bad = || UsageError::bad_value("--veth-pair IN=OUT", &value, "it is IN=OUT or IN=OUT@BRIDGE");
        options.pairs.push(outer_end(&value, "=").ok_or_else(bad)?);
    }
    Ok(options)
}

/// `IN=OUT` or `IN=OUT@BRIDGE`, with something else for the sign.
fn outer_end(value: &str, sign: &str) -> Option<OuterEnd> {
    let (inner, outer) = value.split_once(sign)?;
    let (outer, bridge) = match outer.split_once('@') {
        Some((outer, bridge)) => (outer, Some(bridge.to_owned())),
        None => (outer, None),
    };
    let is_name = |name: &str| !name.is_empty() && name.len() < libc::IFNAMSIZ;
    let named = is_name(inner) && is_name(outer) && bridge.as_deref().is_none_or(is_name);
    named.then(|| OuterEnd { inner: inner.to_owned(), outer: outer.to_owned(), bridge })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn outer_ends() {
        let end = |value, sign| {
            outer_end(value, sign).map(|end| (end.inner, end.outer, end.bridge.unwrap_or_default()))
        };
        let named = |a: &str, b: &str, c: &str| Some((a.to_owned(), b.to_owned(), c.to_owned()));
        assert_eq!(end("eth0=v0", "="), named("eth0", "v0", ""));
        assert_eq!(end("eth0]:v0@br0", "]:"), named("eth0", "v0", "br0"));
        for value in ["eth0", "=v0", "eth0=", "eth0=v0@", "a_name_that_is_too_long=v0"] {
            assert_eq!(end(value, "="), None, "{value}");
        }
    }
}
