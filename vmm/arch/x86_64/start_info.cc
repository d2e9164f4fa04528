// SPDX-License-Identifier: Apache-2.0
#include <cstring>
#include <vector>

#include "vmm/arch/x86_64/boot_data.h"
#include "vmm/arch/x86_64/layout.h"
#include "vmm/memory/endian.h"

namespace hearth::vmm::x86_64 {
namespace {

constexpr uint32_t kStartMagic = 0x336ec578;  // XEN_HVM_START_MAGIC_VALUE.
constexpr uint32_t kMapRam = 1;               // The E820 types.
constexpr uint32_t kMapReserved = 2;

struct StartInfo {
  Le32 magic;
  Le32 version;
  Le32 flags;
  Le32 module_count;
  Le64 module_list_address;
  Le64 command_line_address;
  Le64 rsdp_address;
  Le64 memory_map_address;
  Le32 memory_map_entries;
  Le32 reserved;
};
static_assert(sizeof(StartInfo) == 56);

struct ModuleEntry {
  Le64 address;
  Le64 size;
  Le64 command_line_address;
  Le64 reserved;
};
static_assert(sizeof(ModuleEntry) == 32);

struct MemoryMapEntry {
  Le64 address;
  Le64 size;
  Le32 type;
  Le32 reserved;
};
static_assert(sizeof(MemoryMapEntry) == 24);

std::vector<MemoryMapEntry> MemoryMap(const GuestMemory& memory) {
  std::vector<MemoryMapEntry> map = {
      {0, kMpTableAddress, kMapRam, 0},
      {kMpTableAddress, kHighMemoryStart - kMpTableAddress, kMapReserved, 0}};
  for (const auto& region : memory.regions()) {
    const uint64_t start = std::max(region.start.value(), kHighMemoryStart);
    const uint64_t end = region.start.value() + region.mapping.size_bytes();
    if (start < end) map.push_back({start, end - start, kMapRam, 0});
  }
  return map;
}

}  // namespace

absl::Status WriteStartInfo(const GuestMemory& memory, const std::string& command_line,
                            const std::optional<LoadedInitrd>& initrd) {
  if (command_line.size() >= kMaxCommandLineBytes) {
    return absl::InvalidArgumentError(absl::StrCat(
        "the kernel command line has ", command_line.size(), " bytes with the devices'",
        " parameters, the limit is ", kMaxCommandLineBytes - 1));
  }
  if (command_line.find('\0') != std::string::npos) {
    return absl::InvalidArgumentError("the kernel command line holds a NUL byte");
  }
  const std::vector<MemoryMapEntry> map = MemoryMap(memory);
  StartInfo info{};
  info.magic = kStartMagic;
  info.version = 1;
  info.command_line_address = kCommandLineAddress;
  info.memory_map_address = kMemoryMapAddress;
  info.memory_map_entries = static_cast<uint32_t>(map.size());
  const uint64_t modules_address = kStartInfoAddress + sizeof(info);
  bool written = true;
  if (initrd.has_value()) {
    info.module_count = 1;
    info.module_list_address = modules_address;
    const ModuleEntry module{initrd->address, initrd->size_bytes, 0, 0};
    written = memory.WriteValue(GuestAddress(modules_address), module);
  }
  const auto* text = reinterpret_cast<const uint8_t*>(command_line.c_str());
  written =
      written && memory.WriteValue(GuestAddress(kStartInfoAddress), info) &&
      memory.Write(GuestAddress(kMemoryMapAddress), {reinterpret_cast<const uint8_t*>(map.data()),
                                                     map.size() * sizeof(MemoryMapEntry)}) &&
      memory.Write(GuestAddress(kCommandLineAddress), {text, command_line.size() + 1});
  if (!written) return absl::InvalidArgumentError("the guest has no memory for its boot data");
  return absl::OkStatus();
}

}  // namespace hearth::vmm::x86_64
