// SPDX-License-Identifier: Apache-2.0
#include "vmm/memory/guest_memory.h"

#include <unistd.h>

#include <array>
#include <catch2/catch.hpp>
#include <cstdio>

#include "vmm/base/unique_fd.h"
#include "vmm/memory/endian.h"
#include "vmm/memory/guest_buffer.h"

namespace hearth::vmm {
namespace {

constexpr uint64_t kPage = 4096;
constexpr GuestAddress kHigh(0x100000000);

GuestMemory TwoRegions() {
  const std::array<GuestMemory::Range, 2> ranges = {
      {{kHigh, 4 * kPage}, {GuestAddress(0), 2 * kPage}}};
  auto memory = GuestMemory::CreateAnonymous(ranges);
  REQUIRE(memory.ok());
  return *std::move(memory);
}

TEST_CASE("guest address: addition that would wrap yields nothing") {
  CHECK(GuestAddress(1).CheckedAdd(2) == GuestAddress(3));
  CHECK(GuestAddress(UINT64_MAX).CheckedAdd(0) == GuestAddress(UINT64_MAX));
  CHECK_FALSE(GuestAddress(UINT64_MAX).CheckedAdd(1).has_value());
  CHECK_FALSE(GuestAddress(2).CheckedAdd(UINT64_MAX).has_value());
}

TEST_CASE("guest memory: a range exists only inside one region") {
  const GuestMemory memory = TwoRegions();
  CHECK(memory.size_bytes() == 6 * kPage);
  CHECK(memory.Span(GuestAddress(0), 2 * kPage).has_value());
  CHECK(memory.Span(GuestAddress(2 * kPage - 1), 1).has_value());
  CHECK_FALSE(memory.Span(GuestAddress(2 * kPage - 1), 2).has_value());
  CHECK_FALSE(memory.Span(GuestAddress(2 * kPage), 1).has_value());
  CHECK_FALSE(memory.Span(GuestAddress(0), 0).has_value());
  CHECK(memory.Span(kHigh, 4 * kPage).has_value());
  CHECK_FALSE(memory.Span(GuestAddress(kHigh.value() - 1), 2).has_value());
  CHECK_FALSE(memory.Span(kHigh, UINT64_MAX).has_value());
  CHECK_FALSE(memory.Span(GuestAddress(UINT64_MAX), 2).has_value());
}

TEST_CASE("guest memory: what is written is read back, and nothing at all outside RAM") {
  const GuestMemory memory = TwoRegions();
  REQUIRE(memory.WriteValue(GuestAddress(100), Le32(0xcafef00d)));
  CHECK(memory.ReadValue<Le32>(GuestAddress(100))->get() == 0xcafef00d);
  CHECK(memory.ReadValue<uint8_t>(GuestAddress(100)) == 0x0d);
  const std::array<uint8_t, 4> data = {1, 2, 3, 4};
  CHECK_FALSE(memory.Write(GuestAddress(2 * kPage - 2), data));
  CHECK(memory.ReadValue<uint16_t>(GuestAddress(2 * kPage - 2)) == 0);
  std::array<uint8_t, 4> back{};
  CHECK_FALSE(memory.Read(GuestAddress(0xd0000000), back));
}

TEST_CASE("guest memory: regions must be whole pages and must not overlap or wrap") {
  using Ranges = std::vector<GuestMemory::Range>;
  CHECK_FALSE(GuestMemory::CreateAnonymous(Ranges{}).ok());
  CHECK_FALSE(GuestMemory::CreateAnonymous(Ranges{{GuestAddress(0), 0}}).ok());
  CHECK_FALSE(GuestMemory::CreateAnonymous(Ranges{{GuestAddress(0), 100}}).ok());
  CHECK_FALSE(GuestMemory::CreateAnonymous(
                  Ranges{{GuestAddress(0), 2 * kPage}, {GuestAddress(kPage), kPage}})
                  .ok());
  CHECK_FALSE(
      GuestMemory::CreateAnonymous(Ranges{{GuestAddress(UINT64_MAX - kPage + 1), kPage}}).ok());
  CHECK_FALSE(GuestMemory::CreateAnonymous(Ranges(9, {GuestAddress(0), kPage})).ok());
}

TEST_CASE("mapped region: a file shorter than asked for is refused") {
  FILE* file = std::tmpfile();
  REQUIRE(file != nullptr);
  REQUIRE(ftruncate(fileno(file), 100) == 0);
  CHECK(MappedRegion::ReadOnlyFile(fileno(file), 100).ok());
  CHECK_FALSE(MappedRegion::ReadOnlyFile(fileno(file), 101).ok());
  CHECK_FALSE(MappedRegion::ReadOnlyFile(fileno(file), 0).ok());
  std::fclose(file);
}

TEST_CASE("guest buffer: it is consumed from the front across its ranges") {
  std::array<uint8_t, 3> a = {1, 2, 3};
  std::array<uint8_t, 4> b = {4, 5, 6, 7};
  std::array<iovec, 2> ranges = {iovec{a.data(), a.size()}, iovec{b.data(), b.size()}};
  GuestBuffer buffer(ranges);
  CHECK(buffer.size() == 7);
  std::array<uint8_t, 4> out{};
  REQUIRE(buffer.CopyOut(out));
  CHECK(out == std::array<uint8_t, 4>{1, 2, 3, 4});
  CHECK(buffer.size() == 3);
  CHECK(buffer.iov().size() == 1);
  CHECK_FALSE(buffer.CopyOut(out));
  CHECK(buffer.size() == 3);
  const std::array<uint8_t, 3> in = {9, 8, 7};
  REQUIRE(buffer.CopyIn(in));
  CHECK(b == std::array<uint8_t, 4>{4, 9, 8, 7});
  CHECK(buffer.size() == 0);
  CHECK(buffer.iov().empty());
}

TEST_CASE("guest buffer: it is shortened from the back across its ranges") {
  std::array<uint8_t, 3> a = {1, 2, 3};
  std::array<uint8_t, 1> b = {4};
  std::array<iovec, 2> ranges = {iovec{a.data(), a.size()}, iovec{b.data(), b.size()}};
  std::array<iovec, 2> storage;
  GuestBuffer buffer(ranges);
  GuestBuffer clone = buffer.Clone(storage);
  buffer.TakeLastByte().Store(0, uint8_t{42});
  CHECK(b[0] == 42);
  CHECK(buffer.size() == 3);
  buffer.TakeLastByte().Store(0, uint8_t{43});
  CHECK(a[2] == 43);
  buffer.Truncate(1);
  CHECK(buffer.size() == 1);
  CHECK(buffer.iov().front().iov_len == 1);
  buffer.Truncate(0);
  CHECK(buffer.iov().empty());
  CHECK(clone.size() == 4);
  clone.Skip(4);
  CHECK(clone.iov().empty());
}

}  // namespace
}  // namespace hearth::vmm
