//! Graphics adapters through Vulkan, and which of them counts.
//!
//! Vendors' libraries would say more (clocks, memory, energy) but one each; Vulkan lists every
//! vendor's adapters with one call and is absent gracefully where there is no driver. A software
//! adapter is a program on the CPU: it is listed, so that an operator sees why "a GPU" is slow, and
//! serves the tests, but it never lends its figures to the device.

mod bench;
mod kernels;

use std::pin::pin;
use std::task::{Context, Poll, Waker};

use moe2_model::{GpuInfo, Roofline};
use wgpu::DeviceType;

use kernels::Size;

/// Why an adapter's ceilings are not known.
#[derive(Debug, thiserror::Error)]
pub(super) enum GpuError {
    /// The driver did not open the adapter or refused a buffer, a shader or a submission.
    #[error("its driver refused: {0}")]
    Refused(String),
    /// It did not finish in time.
    #[error("it did not finish a compute shader within {0} s; check the driver's log")]
    Stuck(u64),
    /// It computes something else than the processor does.
    #[error("it computes {got} where {want} is right; update its driver before using it")]
    Wrong {
        /// What came back.
        got: f32,
        /// What the same operations give on the processor.
        want: f32,
    },
}

/// An adapter with what decides whether it is used.
pub(super) struct Adapter {
    handle: wgpu::Adapter,
    /// As it is advertised.
    pub(super) info: GpuInfo,
    /// True for a GPU with its own memory, or one that a hypervisor lends.
    pub(super) discrete: bool,
}

/// Every adapter the installed Vulkan drivers list, the most capable kind first; empty without a
/// driver.
pub(super) fn adapters() -> Vec<Adapter> {
    let mut descriptor = wgpu::InstanceDescriptor::new_without_display_handle();
    descriptor.backends = wgpu::Backends::VULKAN;
    descriptor.flags = wgpu::InstanceFlags::empty();
    let instance = wgpu::Instance::new(descriptor);
    let mut found = now(instance.enumerate_adapters(wgpu::Backends::VULKAN)).unwrap_or_default();
    found.sort_by_key(|adapter| rank(adapter.get_info().device_type));
    found.into_iter().map(described).collect()
}

impl Adapter {
    /// Measures bandwidth and arithmetic; blocks for well under a second.
    pub(super) fn roofline(&self) -> Result<Roofline, GpuError> {
        let size = if self.info.software {
            Size::SOFTWARE
        } else {
            Size::HARDWARE
        };
        let descriptor = wgpu::DeviceDescriptor {
            label: Some("moe2 probe"),
            // Compute with four storage buffers: the least any Vulkan driver offers.
            required_limits: wgpu::Limits::downlevel_defaults(),
            ..wgpu::DeviceDescriptor::default()
        };
        let (device, queue) = now(self.handle.request_device(&descriptor))
            .ok_or_else(|| GpuError::Refused("no device at once".to_owned()))?
            .map_err(|error| GpuError::Refused(error.to_string()))?;
        kernels::measure(device, queue, size)
    }
}

const fn rank(kind: DeviceType) -> u8 {
    match kind {
        DeviceType::DiscreteGpu => 0,
        DeviceType::VirtualGpu => 1,
        DeviceType::IntegratedGpu => 2,
        DeviceType::Other => 3,
        DeviceType::Cpu => 4,
    }
}

fn described(handle: wgpu::Adapter) -> Adapter {
    let info = handle.get_info();
    Adapter {
        handle,
        discrete: matches!(
            info.device_type,
            DeviceType::DiscreteGpu | DeviceType::VirtualGpu
        ),
        info: GpuInfo {
            driver: format!("{} {}", info.driver, info.driver_info)
                .trim()
                .to_owned(),
            name: info.name,
            software: info.device_type == DeviceType::Cpu,
        },
    }
}

/// The result of a future that is ready at its first poll, as all of the Vulkan backend's are; a
/// runtime for two calls at start-up would be one more thing to own.
fn now<T>(future: impl Future<Output = T>) -> Option<T> {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(value) => Some(value),
        Poll::Pending => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The first adapter; `None`, with the reason printed, where there is none and none is demanded.
    fn any_adapter() -> Option<Adapter> {
        let found = adapters().into_iter().next();
        if found.is_none() {
            let demanded = std::env::var("MOE2_REQUIRE_VULKAN").is_ok_and(|value| value == "1");
            assert!(
                !demanded,
                "MOE2_REQUIRE_VULKAN=1 but no Vulkan adapter was found"
            );
            println!("skipped: no Vulkan driver here (install mesa-vulkan-drivers to run it)");
        }
        found
    }

    #[test]
    fn a_real_driver_computes_the_right_numbers_and_positive_ceilings() {
        let Some(adapter) = any_adapter() else { return };
        // `roofline` compares what both shaders wrote with the processor and fails on a difference.
        let found = adapter.roofline().unwrap();
        assert!(found.bytes_per_s.is_finite() && found.bytes_per_s > 0.0);
        assert!(found.flop_per_s.is_finite() && found.flop_per_s > 0.0);
        println!("{}: {found:?}", adapter.info.name);
    }

    #[test]
    fn hardware_comes_before_software_and_only_processors_are_software() {
        let Some(_) = any_adapter() else { return };
        let flags: Vec<bool> = adapters().iter().map(|a| a.info.software).collect();
        assert!(flags.is_sorted(), "false (hardware) sorts first: {flags:?}");
        assert!(rank(DeviceType::DiscreteGpu) < rank(DeviceType::IntegratedGpu));
        assert!(rank(DeviceType::IntegratedGpu) < rank(DeviceType::Cpu));
    }
}
