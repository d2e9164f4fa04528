// SPDX-License-Identifier: Apache-2.0
// What a controller may ask of one machine; docs/limits.md lists them with the memory they imply.
#pragma once

#include <cstddef>
#include <cstdint>

namespace hearth::vmm {

inline constexpr uint32_t kMinMemoryMib = 2;
inline constexpr uint32_t kMaxMemoryMib = 64 * 1024;
// Guest memory comes in whole 2 MiB, so that it can be backed by huge pages.
inline constexpr uint32_t kMemoryGranuleMib = 2;
inline constexpr uint32_t kMaxVcpus = 8;
// Disks, entropy and vsock together use IRQs 5 to 14.
inline constexpr size_t kMaxDisks = 8;
inline constexpr size_t kMaxDiskSerialBytes = 20;
inline constexpr size_t kMaxGuestPorts = 16;
inline constexpr uint32_t kMinGuestCid = 3;  // 0 to 2 are reserved (VIRTIO 1.2, 5.10.4).
inline constexpr uint32_t kMaxStopTimeoutMs = 24 * 3600 * 1000;
// A vCPU thread's stack; it runs no deep code and allocates little.
inline constexpr size_t kVcpuStackBytes = 256 * 1024;

}  // namespace hearth::vmm
