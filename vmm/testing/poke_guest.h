// SPDX-License-Identifier: Apache-2.0
// A guest that does as it is told: an interpreter of a few instructions runs a table of accesses.
// So that hundreds of hostile guests are data that a test writes down.
#pragma once

#include <cstdint>
#include <string>

namespace hearth::vmm::testing {

// Builds the table. What a Read or In yields, and whether a Wait came true, goes to the serial port
// as four bytes, little-endian, in order. The table ends with a reset of the machine.
class PokeScript {
 public:
  // Memory or device registers; `address` is physical.
  PokeScript& Write8(uint32_t address, uint32_t value) { return Add(1, address, value); }
  PokeScript& Write16(uint32_t address, uint32_t value) { return Add(2, address, value); }
  PokeScript& Write32(uint32_t address, uint32_t value) { return Add(3, address, value); }
  // Reads and writes eight bytes in one access each, `value` in both halves.
  PokeScript& Write64(uint32_t address, uint32_t value) { return Add(4, address, value); }
  PokeScript& Read8(uint32_t address) { return Add(5, address); }
  PokeScript& Read16(uint32_t address) { return Add(6, address); }
  PokeScript& Read32(uint32_t address) { return Add(7, address); }
  PokeScript& Out8(uint32_t port, uint32_t value) { return Add(8, port, value); }
  PokeScript& Out16(uint32_t port, uint32_t value) { return Add(9, port, value); }
  PokeScript& Out32(uint32_t port, uint32_t value) { return Add(10, port, value); }
  PokeScript& In8(uint32_t port) { return Add(11, port); }
  PokeScript& In16(uint32_t port) { return Add(12, port); }
  PokeScript& In32(uint32_t port) { return Add(13, port); }
  // Repeats the entries from the one with index `from` on, `times` in all (at least 1).
  PokeScript& Repeat(size_t from, uint32_t times);
  // Waits until the 16 bits at `address` are `value`, at most `tries` looks; yields 1 or 0.
  PokeScript& Wait16(uint32_t address, uint16_t value, uint32_t tries = kManyTries) {
    return Add(15, address, value, tries);
  }
  // The same until the 32-bit word at `address` has all of `bits`.
  PokeScript& WaitBits32(uint32_t address, uint32_t bits, uint32_t tries = kManyTries) {
    return Add(19, address, bits, tries);
  }
  // `count` reads and writes of random width and value within the 4 KiB at `page`. `seed` not 0.
  PokeScript& FuzzPage(uint32_t page, uint32_t seed, uint32_t count) {
    return Add(16, page, seed, count);
  }
  // Fills `words` 32-bit words of memory with `value`, or with random bits.
  PokeScript& Fill(uint32_t address, uint32_t value, uint32_t words) {
    return Add(17, address, value, words);
  }
  PokeScript& FillRandom(uint32_t address, uint32_t seed, uint32_t words) {
    return Add(18, address, seed, words);
  }
  // Of a machine of two vCPUs: the second one flips single bits of the `words` (a power of two)
  // 32-bit words at `address`, each back again at once, until StopFlipping(), which yields 1.
  // `seed` not 0.
  PokeScript& StartFlipping(uint32_t address, uint32_t seed, uint32_t words) {
    return Add(20, address, seed, words);
  }
  PokeScript& StopFlipping() { return Write32(kFlipOn, 0).WaitBits32(kFlipStopped, 1); }

  size_t size() const { return table_.size() / kEntryBytes; }
  // A kernel file that runs the table.
  std::string Kernel() const;

  // The table's place; it must not be overwritten by the script. Free for it: from kFreeAddress on.
  static constexpr uint32_t kTableAddress = 0x110000;
  static constexpr uint32_t kTableEnd = 0x200000;
  static constexpr uint32_t kFreeAddress = 0x200000;
  static constexpr uint32_t kManyTries = 1'000'000;

 private:
  static constexpr size_t kEntryBytes = 16;
  static constexpr uint32_t kFlipOn = 0x900c;
  static constexpr uint32_t kFlipStopped = 0x9014;
  PokeScript& Add(uint32_t operation, uint32_t address, uint32_t value = 0, uint32_t count = 0);

  std::string table_;
};

}  // namespace hearth::vmm::testing
