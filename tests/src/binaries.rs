//! The programs under test, built before the first of them is started.
//!
//! For `node` and `command`. Cargo runs tests of this package without building programs of other packages, so a test
//! that just took the file from the target directory could test last week's.
//! Invariants: what is started was built from the sources as they are now, in the profile and the target directory of
//! the tests; where building fails, every test says so.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::LazyLock;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

/// Paths of the programs.
#[derive(Debug)]
pub struct Binaries {
    /// The node.
    pub shoal: PathBuf,
    /// Drills and benchmarks.
    pub cluster_sim: PathBuf,
}

/// The programs, built on the first call.
///
/// # Panics
/// They cannot be built; what the compiler said is on standard error.
pub fn binaries() -> &'static Binaries {
    static BUILT: LazyLock<Result<Binaries, String>> = LazyLock::new(|| build().map_err(|fault| format!("{fault:#}")));
    match &*BUILT {
        Ok(binaries) => binaries,
        Err(fault) => panic!("the programs under test were not built: {fault}"),
    }
}

/// The root of the workspace.
#[must_use]
pub fn workspace() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the package of the tests lies in the workspace")
}

fn build() -> Result<Binaries> {
    // `<target directory>/<profile>/deps/<this test>`
    let own = std::env::current_exe().context("looking for this test's own file")?;
    let profile_directory = own.ancestors().nth(2).context("this test lies in no target directory")?;
    let target_directory = profile_directory.parent().context("this test lies in no target directory")?;
    let profile = match profile_directory.file_name().and_then(|name| name.to_str()) {
        Some("debug") => "dev",
        Some(profile) => profile,
        None => anyhow::bail!("{} names no profile", profile_directory.display()),
    };
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    // What cargo tells of this test's own package makes build scripts that look at it (that of `ring`) run again, and
    // everything above them is compiled anew with each change between this cargo and the one outside.
    for (name, _) in std::env::vars_os() {
        let told = ["CARGO_PKG_", "CARGO_MANIFEST_"].iter().any(|prefix| name.to_string_lossy().starts_with(prefix));
        if told {
            command.env_remove(name);
        }
    }
    let output = command
        .args(["build", "--locked", "--quiet", "--bin", "shoal", "--bin", "cluster-sim", "--profile", profile])
        .args(["--message-format", "json-render-diagnostics", "--target-dir"])
        .arg(target_directory)
        .current_dir(workspace())
        .stderr(Stdio::inherit())
        .output()
        .context("running cargo")?;
    ensure!(output.status.success(), "cargo build ended with {}; see its words above", output.status);
    let messages = String::from_utf8(output.stdout).context("reading cargo's messages")?;
    let executable = |name: &str| {
        let messages = messages.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        let mut paths = messages.filter_map(|message| {
            (message["target"]["name"] == name).then(|| message["executable"].as_str().map(PathBuf::from)).flatten()
        });
        paths.next().with_context(|| format!("cargo built no program named {name}"))
    };
    Ok(Binaries { shoal: executable("shoal")?, cluster_sim: executable("cluster-sim")? })
}
