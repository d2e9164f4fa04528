// SPDX-License-Identifier: Apache-2.0
// Bounds on what a saved machine's state may hold; docs/limits.md lists them.
#pragma once

#include <cstddef>
#include <cstdint>

namespace hearth::vmm {

// The version that this VMM writes, and the oldest that it reads (docs/snapshots.md).
inline constexpr uint32_t kSavedMachineVersion = 1;
inline constexpr uint32_t kOldestSavedMachineVersion = 1;

// Smaller holes of a memory file stay the file's: a mapping costs more than their pages. A process
// may have 65,530 mappings.
inline constexpr uint64_t kMinHoleBytes = 1024 * 1024;
inline constexpr size_t kMaxHoles = 4096;
inline constexpr size_t kMaxSavedCpuidEntries = 256;  // KVM_MAX_CPUID_ENTRIES.
inline constexpr size_t kMaxSavedMsrs = 1024;
inline constexpr size_t kMaxSavedXsaveBytes = 64 * 1024;
// More than any processor has; what KVM_SET_TSC_KHZ would otherwise compute with.
inline constexpr uint32_t kMaxTscKhz = 100'000'000;
// A guest's TSC may differ this much from the host's without being scaled: what kernels allow too.
inline constexpr uint32_t kTscTolerancePpm = 250;

}  // namespace hearth::vmm
