//! What this machine is and can do at most: the agent's introduction of itself.
//!
//! A forecast for an expert that has never run needs two ceilings, bytes and operations per second.
//! They are measured here, in a fraction of a second, rather than looked up by name: a table of
//! processors would be out of date, and wrong for a container, a power mode or a half-populated
//! memory bus. They are kept in a file, so that only the first start pays.
//!
//! Describing never fails. What cannot be found out is absent from the description, and a warning
//! in the log says why.

mod cache;
mod cpu;
mod gpu;
mod host;
mod table;

use std::num::NonZeroU32;
use std::path::{Path, PathBuf};

use moe2_model::{Bytes, DeviceKind, GpuInfo, Roofline};

use cache::{Ceilings, Key};
use gpu::Adapter;
use host::Host;
pub(crate) use table::table;

/// How to describe a machine.
#[derive(Debug, Clone)]
pub(crate) struct ProbeOptions {
    /// Leave the ceilings out; for starts that must not load the machine.
    pub(crate) skip: bool,
    /// Root of the file system to describe: `/`, or a tree made by a test, which has no GPU.
    pub(crate) root: PathBuf,
    /// Hardware threads this agent may use; 0 counts as 1.
    pub(crate) threads: u32,
    /// File that keeps the ceilings between starts. Agents of one machine should share it: the
    /// first one measures, the others wait for it instead of disturbing it.
    pub(crate) cache: Option<PathBuf>,
}

/// What was found out: a device's description but for its energy, which is the meters' part.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Probed {
    /// Family.
    pub(crate) kind: DeviceKind,
    /// Processor or module, for people.
    pub(crate) model: String,
    /// Hardware threads measured with.
    pub(crate) threads: u32,
    /// Memory this process may use.
    pub(crate) memory: Bytes,
    /// Graphics adapters, hardware first.
    pub(crate) gpus: Vec<GpuInfo>,
    /// Ceilings of the processor; `None` when measuring was skipped.
    pub(crate) cpu: Option<Roofline>,
    /// Ceilings of the first hardware adapter; `None` also when there is none or it failed.
    pub(crate) gpu: Option<Roofline>,
}

/// Describes the machine; blocks for up to a second at its first start, so call it off any runtime.
pub(crate) fn describe(options: &ProbeOptions) -> Probed {
    let (probed, notes) = probe(options);
    for note in notes {
        tracing::warn!("{note}");
    }
    probed
}

/// The description, and what could not be found out.
fn probe(options: &ProbeOptions) -> (Probed, Vec<String>) {
    let threads = NonZeroU32::new(options.threads).unwrap_or(NonZeroU32::MIN);
    let host = Host::read(&options.root);
    let adapters = if options.root == Path::new("/") {
        gpu::adapters()
    } else {
        Vec::new()
    };
    let hardware = adapters.iter().find(|adapter| !adapter.info.software);
    let mut notes = Vec::new();
    if host.nvidia && hardware.is_none() {
        notes.push(NO_VULKAN.to_owned());
    }
    let ceilings = (!options.skip).then(|| {
        let key = Key::new(&host.model, threads, hardware.map(|gpu| &gpu.info));
        let measure = || measure(&host, threads, hardware);
        let (ceilings, mut said) = cache::load_or(options.cache.as_deref(), &key, measure);
        notes.append(&mut said);
        ceilings
    });
    let probed = Probed {
        kind: kind(&host, &adapters),
        threads: threads.get(),
        memory: host.memory,
        gpus: adapters.iter().map(|one| one.info.clone()).collect(),
        cpu: ceilings.map(|found| found.cpu),
        gpu: ceilings.and_then(|found| found.gpu),
        model: host.model,
    };
    (probed, notes)
}

const NO_VULKAN: &str = "an NVIDIA GPU is present but no Vulkan driver lists it: its ceilings are \
                         unknown; install the driver's Vulkan part to probe it";

/// A graphics unit inside the processor does not make a GPU machine: it shares the processor's
/// memory and power, and engines run faster beside it.
fn kind(host: &Host, adapters: &[Adapter]) -> DeviceKind {
    if host.jetson {
        DeviceKind::Jetson
    } else if host.nvidia || adapters.iter().any(|adapter| adapter.discrete) {
        DeviceKind::Gpu
    } else {
        DeviceKind::Cpu
    }
}

/// Measures the ceilings, and says why the GPU's are missing where they should be there.
fn measure(
    host: &Host,
    threads: NonZeroU32,
    hardware: Option<&Adapter>,
) -> (Ceilings, Option<String>) {
    let cpu = cpu::measure(threads, host.memory);
    let gpu = hardware.map(|adapter| (adapter, adapter.roofline()));
    match gpu {
        None => (Ceilings { cpu, gpu: None }, None),
        Some((_, Ok(found))) => (
            Ceilings {
                cpu,
                gpu: Some(found),
            },
            None,
        ),
        Some((adapter, Err(error))) => {
            let note = format!("ceilings of {} are unknown: {error}", adapter.info.name);
            (Ceilings { cpu, gpu: None }, Some(note))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(root: &Path) -> ProbeOptions {
        ProbeOptions {
            skip: true,
            root: root.to_owned(),
            threads: 0,
            cache: None,
        }
    }

    #[test]
    fn an_empty_tree_is_described_as_a_plain_processor() {
        let root = tempfile::TempDir::new().unwrap();
        let (found, notes) = probe(&options(root.path()));
        assert_eq!((found.kind, found.threads), (DeviceKind::Cpu, 1));
        assert_eq!((found.cpu, found.gpu), (None, None));
        assert_eq!((found.gpus, notes), (vec![], vec![]));
    }

    #[test]
    fn a_gpu_that_vulkan_does_not_list_is_said_aloud() {
        let root = tempfile::TempDir::new().unwrap();
        std::fs::create_dir_all(root.path().join("dev/nvidia0")).unwrap();
        let (found, notes) = probe(&options(root.path()));
        assert_eq!(found.kind, DeviceKind::Gpu);
        assert_eq!(notes, [NO_VULKAN]);
    }

    #[test]
    fn the_second_start_takes_its_ceilings_from_the_file() {
        let root = tempfile::TempDir::new().unwrap();
        let mut options = options(root.path());
        options.skip = false;
        options.cache = Some(root.path().join("state/ceilings.json"));
        let first = probe(&options);
        assert_eq!(first.1, Vec::<String>::new());
        assert!(first.0.cpu.is_some());
        let second = probe(&options);
        assert_eq!(second, first, "measuring twice never gives equal figures");
    }

    #[test]
    fn this_machine_can_be_described() {
        let found = describe(&options(Path::new("/")));
        assert!(!found.model.is_empty());
        assert!(found.memory > Bytes(0));
        assert_eq!(found.gpu, None, "measuring was skipped");
    }
}
