// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "vmm/arch/x86_64/kernel_loader.h"
#include "vmm/base/status.h"
#include "vmm/memory/guest_memory.h"

namespace hearth::vmm::x86_64 {

// Writes what a PVH kernel finds at its entry: hvm_start_info (Xen's start_info.h, version 1) with
// the memory map, the command line and the initial RAM disk as a module. The kernel's EBX is to be
// kStartInfoAddress. INVALID_ARGUMENT when the command line is too long or holds a NUL.
absl::Status WriteStartInfo(const GuestMemory& memory, const std::string& command_line,
                            const std::optional<LoadedInitrd>& initrd);

// Writes the MultiProcessor Specification's tables for `vcpu_count` processors and one IOAPIC
// whose pins are ISA interrupts: edge-triggered, active high. Linux finds its interrupt
// controllers in them without ACPI.
absl::Status WriteMpTable(const GuestMemory& memory, uint8_t vcpu_count);

}  // namespace hearth::vmm::x86_64
