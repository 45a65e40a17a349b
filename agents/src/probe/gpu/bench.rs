//! An adapter opened for compute: buffers, shader, submissions, reading back.
//!
//! The library reports most errors not from the call that causes them but through a handler, whose
//! default ends the process. Here the handler keeps the first one, and every step that waits for the
//! adapter also asks for it, so that a bad driver costs the agent a note and not its life. No wait
//! is without a limit for the same reason.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::GpuError;

/// A submission that takes longer is given up, in seconds.
const PATIENCE_S: u64 = 5;

/// An opened adapter with its buffers and shader.
pub(super) struct Bench {
    device: wgpu::Device,
    queue: wgpu::Queue,
    shader: wgpu::ShaderModule,
    layout: wgpu::PipelineLayout,
    bindings: wgpu::BindGroup,
    result: wgpu::Buffer,
    staging: wgpu::Buffer,
    /// Bytes that one reading brings back.
    sample: u64,
    /// The first error the driver reported outside a call.
    failure: Arc<Mutex<Option<String>>>,
}

impl Bench {
    /// Makes three buffers of `bytes` each; results are read back `sample` bytes at a time.
    pub(super) fn new(
        device: wgpu::Device,
        queue: wgpu::Queue,
        (bytes, sample): (u64, u32),
    ) -> Result<Self, GpuError> {
        let failure = Arc::new(Mutex::new(None));
        let sink = Arc::clone(&failure);
        // Without a handler such errors (no memory, for one) would end the process.
        device.on_uncaptured_error(Arc::new(move |error: wgpu::Error| {
            let mut first = sink.lock().unwrap_or_else(PoisonError::into_inner);
            first.get_or_insert(error.to_string());
        }));
        let sample = u64::from(sample);
        let buffer = |size, usage| {
            device.create_buffer(&wgpu::BufferDescriptor {
                label: None,
                size,
                usage,
                mapped_at_creation: false,
            })
        };
        let storage = || {
            buffer(
                bytes,
                wgpu::BufferUsages::STORAGE | wgpu::BufferUsages::COPY_SRC,
            )
        };
        let buffers = [storage(), storage(), storage()];
        let staging = buffer(
            sample,
            wgpu::BufferUsages::MAP_READ | wgpu::BufferUsages::COPY_DST,
        );
        let (group_layout, layout) = layouts(&device);
        let entry = |binding| wgpu::BindGroupEntry {
            binding,
            resource: buffers[binding as usize].as_entire_binding(),
        };
        let bindings = device.create_bind_group(&wgpu::BindGroupDescriptor {
            label: None,
            layout: &group_layout,
            entries: &[entry(0), entry(1), entry(2)],
        });
        let shader = device.create_shader_module(wgpu::include_wgsl!("kernels.wgsl"));
        let [.., result] = buffers;
        let bench = Self {
            device,
            queue,
            shader,
            layout,
            bindings,
            result,
            staging,
            sample,
            failure,
        };
        bench.healthy()?;
        Ok(bench)
    }

    fn healthy(&self) -> Result<(), GpuError> {
        let mut first = self.failure.lock().unwrap_or_else(PoisonError::into_inner);
        first
            .take()
            .map_or(Ok(()), |message| Err(GpuError::Refused(message)))
    }

    /// The shader's entry point of this name.
    pub(super) fn pipeline(&self, entry: &str) -> wgpu::ComputePipeline {
        self.device
            .create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
                label: Some(entry),
                layout: Some(&self.layout),
                module: &self.shader,
                entry_point: Some(entry),
                compilation_options: wgpu::PipelineCompilationOptions::default(),
                cache: None,
            })
    }

    /// Runs a shader `repeats` times in one submission and returns the wall time of it.
    pub(super) fn run(
        &self,
        pipeline: &wgpu::ComputePipeline,
        groups: u32,
        repeats: u32,
    ) -> Result<Duration, GpuError> {
        let mut encoder = self.device.create_command_encoder(&Default::default());
        {
            let mut pass = encoder.begin_compute_pass(&Default::default());
            pass.set_pipeline(pipeline);
            pass.set_bind_group(0, &self.bindings, &[]);
            for _ in 0..repeats {
                pass.dispatch_workgroups(groups, 1, 1);
            }
        }
        let commands = encoder.finish();
        let begin = Instant::now();
        self.queue.submit([commands]);
        self.wait()?;
        let took = begin.elapsed();
        self.healthy()?;
        Ok(took)
    }

    fn wait(&self) -> Result<(), GpuError> {
        let wait = wgpu::PollType::Wait {
            submission_index: None,
            timeout: Some(Duration::from_secs(PATIENCE_S)),
        };
        match self.device.poll(wait) {
            Ok(_) => Ok(()),
            Err(wgpu::PollError::Timeout) => Err(GpuError::Stuck(PATIENCE_S)),
            Err(error) => Err(GpuError::Refused(error.to_string())),
        }
    }

    /// The result's numbers from byte `from` on.
    pub(super) fn read(&self, from: u64) -> Result<Vec<f32>, GpuError> {
        let refused = |error: &dyn std::fmt::Display| GpuError::Refused(error.to_string());
        let mut encoder = self.device.create_command_encoder(&Default::default());
        encoder.copy_buffer_to_buffer(&self.result, from, &self.staging, 0, self.sample);
        self.queue.submit([encoder.finish()]);
        self.staging.map_async(wgpu::MapMode::Read, .., |_| ());
        self.wait()?;
        self.healthy()?;
        let numbers = {
            let view = self
                .staging
                .get_mapped_range(..)
                .map_err(|error| refused(&error))?;
            let (words, _) = view.as_chunks::<4>();
            words.iter().map(|word| f32::from_ne_bytes(*word)).collect()
        };
        self.staging.unmap();
        Ok(numbers)
    }
}

fn layouts(device: &wgpu::Device) -> (wgpu::BindGroupLayout, wgpu::PipelineLayout) {
    let entry = |binding| wgpu::BindGroupLayoutEntry {
        binding,
        visibility: wgpu::ShaderStages::COMPUTE,
        ty: wgpu::BindingType::Buffer {
            ty: wgpu::BufferBindingType::Storage { read_only: false },
            has_dynamic_offset: false,
            min_binding_size: None,
        },
        count: None,
    };
    let group = device.create_bind_group_layout(&wgpu::BindGroupLayoutDescriptor {
        label: None,
        entries: &[entry(0), entry(1), entry(2)],
    });
    let pipeline = device.create_pipeline_layout(&wgpu::PipelineLayoutDescriptor {
        label: None,
        bind_group_layouts: &[Some(&group)],
        immediate_size: 0,
    });
    (group, pipeline)
}
