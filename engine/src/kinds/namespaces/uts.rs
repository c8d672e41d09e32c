//! UTS namespaces: host name and domain name (uname(2)).

use nix::sys::utsname::uname;
use proto::catalogue::UTSNS;
use proto::messages::UtsnsEntry;

use super::{NamespaceDump, NamespaceKind, NamespaceRestore};
use crate::error::{Context as _, Problem, SysError};
use crate::image::NewImages;
use crate::procfs::link::NamespaceType;
use crate::sys::namespace;

/// UTS namespaces.
#[derive(Debug)]
pub struct UtsNamespace;

impl NamespaceKind for UtsNamespace {
    const NAME: &'static str = "uts-namespace";
    const TYPE: NamespaceType = NamespaceType::Uts;

    fn dump(cx: NamespaceDump<'_>, images: &mut NewImages) -> Result<(), Problem> {
        let names = uname().map_err(SysError::of("uname"))?;
        let text = |name: &std::ffi::OsStr| name.to_string_lossy().into_owned();
        let entry = UtsnsEntry { nodename: text(names.nodename()), domainname: text(names.domainname()) };
        images.write(&UTSNS, cx.id.into(), &[entry])
    }

    fn restore(cx: NamespaceRestore<'_>) -> Result<(), Problem> {
        let entry: UtsnsEntry = cx.images.read_single(&UTSNS, cx.id.into())?;
        let host = nix::unistd::sethostname(&entry.nodename).map_err(SysError::of("sethostname"));
        host.while_trying_to("set the host name")?;
        namespace::set_domain_name(&entry.domainname).while_trying_to("set the domain name")
    }
}
