// SPDX-License-Identifier: Apache-2.0
// MultiProcessor Specification 1.4, chapter 4.
#include <cstring>
#include <type_traits>
#include <vector>

#include "vmm/arch/x86_64/boot_data.h"
#include "vmm/arch/x86_64/layout.h"
#include "vmm/memory/endian.h"

namespace hearth::vmm::x86_64 {
namespace {

struct FloatingPointer {
  char signature[4] = {'_', 'M', 'P', '_'};
  Le32 table_address;
  uint8_t length_paragraphs = 1;
  uint8_t revision = 4;
  uint8_t checksum = 0;
  uint8_t features[5] = {};
};
static_assert(sizeof(FloatingPointer) == 16);

struct TableHeader {
  char signature[4] = {'P', 'C', 'M', 'P'};
  Le16 length;
  uint8_t revision = 4;
  uint8_t checksum = 0;
  char oem_id[8] = {'H', 'E', 'A', 'R', 'T', 'H', ' ', ' '};
  char product_id[12] = {'M', 'I', 'C', 'R', 'O', 'V', 'M', ' ', ' ', ' ', ' ', ' '};
  Le32 oem_table;
  Le16 oem_table_size;
  Le16 entry_count;
  Le32 local_apic_address = uint32_t{kLocalApicAddress};
  Le16 extended_length;
  uint8_t extended_checksum = 0;
  uint8_t reserved = 0;
};
static_assert(sizeof(TableHeader) == 44);

struct ProcessorEntry {
  uint8_t type = 0;
  uint8_t local_apic_id = 0;
  uint8_t local_apic_version = 0x14;
  uint8_t flags = 0;  // 1 enabled, 2 bootstrap processor.
  Le32 signature = 0x600;
  Le32 features = 0x201;  // FPU and APIC; Linux asks CPUID for the truth.
  Le32 reserved[2];
};
static_assert(sizeof(ProcessorEntry) == 20);

struct BusEntry {
  uint8_t type = 1;
  uint8_t id = 0;
  char name[6] = {'I', 'S', 'A', ' ', ' ', ' '};
};
static_assert(sizeof(BusEntry) == 8);

struct IoApicEntry {
  uint8_t type = 2;
  uint8_t id = 0;
  uint8_t version = 0x11;
  uint8_t flags = 1;
  Le32 address = uint32_t{kIoApicAddress};
};
static_assert(sizeof(IoApicEntry) == 8);

// An interrupt's way to an IOAPIC pin (type 3) or to a local APIC pin (type 4).
struct InterruptEntry {
  uint8_t type = 3;
  uint8_t kind = 0;  // 0 INT, 1 NMI, 3 ExtINT.
  Le16 flags = 0;    // As the bus has it; ISA: edge-triggered, active high.
  uint8_t source_bus = 0;
  uint8_t source_irq = 0;
  uint8_t target_apic = 0;
  uint8_t target_pin = 0;
};
static_assert(sizeof(InterruptEntry) == 8);

uint8_t Checksum(const uint8_t* data, size_t size) {
  uint8_t sum = 0;
  for (size_t i = 0; i < size; ++i) sum = static_cast<uint8_t>(sum + data[i]);
  return static_cast<uint8_t>(-sum);
}

// The table's bytes, built one entry after the other.
class Table {
 public:
  template <typename T>
  void Append(const T& entry) {
    static_assert(std::is_trivially_copyable_v<T>);
    const auto* bytes = reinterpret_cast<const uint8_t*>(&entry);
    bytes_.insert(bytes_.end(), bytes, bytes + sizeof(T));
    ++entry_count_;
  }
  std::vector<uint8_t> Finish() {
    TableHeader header;
    header.length = static_cast<uint16_t>(sizeof(header) + bytes_.size());
    header.entry_count = entry_count_;
    const auto* start = reinterpret_cast<const uint8_t*>(&header);
    bytes_.insert(bytes_.begin(), start, start + sizeof(header));
    bytes_[offsetof(TableHeader, checksum)] = Checksum(bytes_.data(), bytes_.size());
    return std::move(bytes_);
  }

 private:
  std::vector<uint8_t> bytes_;
  uint16_t entry_count_ = 0;
};

}  // namespace

absl::Status WriteMpTable(const GuestMemory& memory, uint8_t vcpu_count) {
  const uint8_t io_apic_id = static_cast<uint8_t>(vcpu_count + 1);
  Table table;
  for (uint8_t cpu = 0; cpu < vcpu_count; ++cpu) {
    ProcessorEntry entry;
    entry.local_apic_id = cpu;
    entry.flags = cpu == 0 ? 3 : 1;
    table.Append(entry);
  }
  table.Append(BusEntry());
  IoApicEntry io_apic;
  io_apic.id = io_apic_id;
  table.Append(io_apic);
  for (uint8_t irq = 0; irq < kIrqCount; ++irq) {
    InterruptEntry entry;
    entry.source_irq = irq;
    entry.target_apic = io_apic_id;
    entry.target_pin = irq;
    table.Append(entry);
  }
  for (uint8_t pin : {0, 1}) {
    InterruptEntry entry;
    entry.type = 4;
    entry.kind = pin == 0 ? 3 : 1;
    entry.target_apic = pin == 0 ? 0 : 0xff;
    entry.target_pin = pin;
    table.Append(entry);
  }
  const std::vector<uint8_t> bytes = table.Finish();

  FloatingPointer pointer;
  pointer.table_address = static_cast<uint32_t>(kMpTableAddress + sizeof(pointer));
  pointer.checksum = Checksum(reinterpret_cast<const uint8_t*>(&pointer), sizeof(pointer));
  if (sizeof(pointer) + bytes.size() > kMpTableBytes ||
      !memory.WriteValue(GuestAddress(kMpTableAddress), pointer) ||
      !memory.Write(GuestAddress(kMpTableAddress + sizeof(pointer)), bytes)) {
    return absl::InvalidArgumentError("the MP table has no room");
  }
  return absl::OkStatus();
}

}  // namespace hearth::vmm::x86_64
