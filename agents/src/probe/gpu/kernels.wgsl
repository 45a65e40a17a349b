// Two ceilings of an adapter: `triad` moves three vectors through memory with one multiply-add per
// element, `chains` does many multiply-adds per element and hardly touches memory. `fill` writes
// inputs that are exact in binary floating point, so that the processor can compute the same
// results. The host states the grid; every invocation owns one vec4.

@group(0) @binding(0) var<storage, read_write> a: array<vec4<f32>>;
@group(0) @binding(1) var<storage, read_write> b: array<vec4<f32>>;
@group(0) @binding(2) var<storage, read_write> c: array<vec4<f32>>;

const STEPS: u32 = 256u;
const SCALE: f32 = 0.9990234375; // 1 - 1/1024

@compute @workgroup_size(256)
fn fill(@builtin(global_invocation_id) id: vec3<u32>) {
    let k = id.x * 4u + vec4<u32>(0u, 1u, 2u, 3u);
    a[id.x] = vec4<f32>(k & vec4<u32>(1023u)) / 1024.0;
    b[id.x] = vec4<f32>((k >> vec4<u32>(3u)) & vec4<u32>(1023u)) / 1024.0;
}

@compute @workgroup_size(256)
fn triad(@builtin(global_invocation_id) id: vec3<u32>) {
    c[id.x] = a[id.x] * 3.0 + b[id.x];
}

@compute @workgroup_size(256)
fn chains(@builtin(global_invocation_id) id: vec3<u32>) {
    let scale = vec4<f32>(SCALE);
    let add = b[id.x] / 1024.0;
    var w = a[id.x];
    var x = w + 0.25;
    var y = w + 0.5;
    var z = w + 0.75;
    // Four independent chains hide latency; four steps per round hide the loop's own work.
    for (var round = 0u; round < STEPS / 4u; round++) {
        w = fma(w, scale, add); x = fma(x, scale, add); y = fma(y, scale, add); z = fma(z, scale, add);
        w = fma(w, scale, add); x = fma(x, scale, add); y = fma(y, scale, add); z = fma(z, scale, add);
        w = fma(w, scale, add); x = fma(x, scale, add); y = fma(y, scale, add); z = fma(z, scale, add);
        w = fma(w, scale, add); x = fma(x, scale, add); y = fma(y, scale, add); z = fma(z, scale, add);
    }
    c[id.x] = w + x + y + z;
}
