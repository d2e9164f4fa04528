// SPDX-License-Identifier: Apache-2.0
#include "vmm/virtio/virtqueue.h"

#include <array>
#include <catch2/catch.hpp>

#include "vmm/memory/endian.h"
#include "vmm/virtio/virtqueue_fake.h"

namespace hearth::vmm {
namespace {

constexpr uint64_t kRamBytes = 1 << 20;
constexpr GuestAddress kRings(0x10000);
constexpr GuestAddress kData(0x20000);
constexpr uint16_t kSize = 8;

GuestMemory MakeMemory() {
  const std::array<GuestMemory::Range, 1> ranges = {{{GuestAddress(0), kRamBytes}}};
  return *GuestMemory::CreateAnonymous(ranges);
}

struct Fixture {
  explicit Fixture(bool event_idx = false) {
    REQUIRE(queue.Activate(memory, fake.Settings(event_idx)).empty());
  }
  Virtqueue::PopResult Pop() { return queue.Pop(chain); }
  // The reason the queue gives after one Pop() that must find it broken.
  std::string_view Broken() {
    REQUIRE(Pop() == Virtqueue::PopResult::kBroken);
    REQUIRE(queue.state().broken);
    REQUIRE(Pop() == Virtqueue::PopResult::kBroken);  // For ever.
    return queue.broken_reason();
  }

  GuestMemory memory = MakeMemory();
  VirtqueueFake fake{&memory, kRings, kSize};
  Virtqueue queue;
  DescriptorChain chain;
};

TEST_CASE("virtqueue: a chain yields its readable and its writable buffers") {
  Fixture f;
  f.memory.WriteValue(kData, uint32_t{0x12345678});
  const std::array<VirtqueueFake::Buffer, 3> buffers = {
      {{kData, 2, false},
       {GuestAddress(kData.value() + 2), 2, false},
       {GuestAddress(0x30000), 512, true}}};
  const auto head = f.fake.Add(buffers);
  REQUIRE(f.Pop() == Virtqueue::PopResult::kChain);
  CHECK(f.chain.head() == *head);
  CHECK(f.chain.readable().size() == 4);
  CHECK(f.chain.writable().size() == 512);
  uint32_t value = 0;
  REQUIRE(f.chain.readable().CopyOutValue(value));
  CHECK(value == 0x12345678);
  CHECK(f.chain.readable().size() == 0);
  CHECK_FALSE(f.chain.readable().CopyOutValue(value));
  f.queue.Push(f.chain, 7);
  const auto used = f.fake.TakeUsed();
  REQUIRE(used.has_value());
  CHECK(used->head == *head);
  CHECK(used->length == 7);
  CHECK(f.Pop() == Virtqueue::PopResult::kEmpty);
}

TEST_CASE("virtqueue: indices wrap around 65536 many times without harm") {
  Fixture f;
  const std::array<VirtqueueFake::Buffer, 1> buffers = {{{kData, 16, true}}};
  for (int i = 0; i < 70000; ++i) {
    if (!f.fake.Add(buffers)) FAIL("no descriptor is free");
    if (f.Pop() != Virtqueue::PopResult::kChain) FAIL("no chain in round " << i);
    f.queue.Push(f.chain, 16);
    if (!f.fake.TakeUsed()) FAIL("nothing used in round " << i);
  }
  CHECK(f.queue.state().next_avail == static_cast<uint16_t>(70000));
}

TEST_CASE("virtqueue: a chain that was put back is popped again") {
  Fixture f;
  const std::array<VirtqueueFake::Buffer, 1> buffers = {{{kData, 16, true}}};
  const auto head = f.fake.Add(buffers);
  REQUIRE(f.Pop() == Virtqueue::PopResult::kChain);
  f.chain.writable().Skip(10);
  f.queue.UndoPop();
  REQUIRE(f.Pop() == Virtqueue::PopResult::kChain);
  CHECK(f.chain.head() == *head);
  CHECK(f.chain.writable().size() == 16);
}

TEST_CASE("virtqueue: a chain that fills the queue is legal, one that loops is not") {
  Fixture f;
  for (uint16_t i = 0; i < kSize; ++i) {
    f.fake.SetDescriptor(i, kData.value(), 8, i + 1 < kSize ? kFakeNext : 0,
                         static_cast<uint16_t>(i + 1));
  }
  f.fake.MakeAvailable(0);
  REQUIRE(f.Pop() == Virtqueue::PopResult::kChain);
  CHECK(f.chain.readable().size() == 8 * kSize);
  f.fake.SetDescriptor(kSize - 1, kData.value(), 8, kFakeNext, 0);
  f.fake.MakeAvailable(0);
  CHECK(f.Broken() == "descriptor chain loops");
}

TEST_CASE("virtqueue: a descriptor that points at itself is a loop") {
  Fixture f;
  f.fake.SetDescriptor(3, kData.value(), 8, kFakeNext, 3);
  f.fake.MakeAvailable(3);
  CHECK(f.Broken() == "descriptor chain loops");
}

TEST_CASE("virtqueue: a head beyond the queue breaks it") {
  Fixture f;
  f.fake.MakeAvailable(kSize);
  CHECK(f.Broken() == "descriptor index beyond the queue");
}

TEST_CASE("virtqueue: a next index beyond the queue breaks it") {
  Fixture f;
  f.fake.SetDescriptor(0, kData.value(), 8, kFakeNext, 0xffff);
  f.fake.MakeAvailable(0);
  CHECK(f.Broken() == "descriptor index beyond the queue");
}

TEST_CASE("virtqueue: illegal buffers break it") {
  Fixture f;
  std::string_view reason;
  SECTION("length zero") {
    f.fake.SetDescriptor(0, kData.value(), 0, 0, 0);
    reason = "descriptor of length 0";
  }
  SECTION("an address in no RAM") {
    f.fake.SetDescriptor(0, 0xd0000000, 8, 0, 0);
    reason = "descriptor does not lie in RAM";
  }
  SECTION("an end beyond RAM") {
    f.fake.SetDescriptor(0, kRamBytes - 4, 8, 0, 0);
    reason = "descriptor does not lie in RAM";
  }
  SECTION("an address that wraps") {
    f.fake.SetDescriptor(0, UINT64_MAX - 3, 8, 0, 0);
    reason = "descriptor does not lie in RAM";
  }
  SECTION("the longest length") {
    f.fake.SetDescriptor(0, kData.value(), UINT32_MAX, 0, 0);
    reason = "descriptor does not lie in RAM";
  }
  SECTION("an indirect table") {
    f.fake.SetDescriptor(0, kData.value(), 16, kFakeIndirect, 0);
    reason = "indirect descriptor without the feature";
  }
  SECTION("a readable buffer after a writable one") {
    f.fake.SetDescriptor(0, kData.value(), 16, kFakeNext | kFakeWrite, 1);
    f.fake.SetDescriptor(1, kData.value(), 16, 0, 0);
    reason = "readable descriptor after a writable one";
  }
  f.fake.MakeAvailable(0);
  CHECK(f.Broken() == reason);
}

TEST_CASE("virtqueue: an available index that jumps breaks it") {
  Fixture f;
  f.fake.SetDescriptor(0, kData.value(), 16, 0, 0);
  SECTION("forward") { f.fake.SetAvailIndex(kSize + 1); }
  SECTION("backward") { f.fake.SetAvailIndex(0xffff); }
  CHECK(f.Broken() == "available index jumped by more than the queue's size");
}

TEST_CASE("virtqueue: a full available ring is legal") {
  Fixture f;
  f.fake.SetDescriptor(0, kData.value(), 16, 0, 0);
  f.fake.SetAvailIndex(kSize);
  for (int i = 0; i < kSize; ++i) REQUIRE(f.Pop() == Virtqueue::PopResult::kChain);
  CHECK(f.Pop() == Virtqueue::PopResult::kEmpty);
}

TEST_CASE("virtqueue: a chain spans regions only descriptor by descriptor") {
  const std::array<GuestMemory::Range, 2> ranges = {
      {{GuestAddress(0), kRamBytes}, {GuestAddress(0x100000000), kRamBytes}}};
  auto memory = *GuestMemory::CreateAnonymous(ranges);
  VirtqueueFake fake(&memory, kRings, kSize);
  Virtqueue queue;
  DescriptorChain chain;
  REQUIRE(queue.Activate(memory, fake.Settings()).empty());
  const std::array<VirtqueueFake::Buffer, 2> buffers = {
      {{kData, 8, false}, {GuestAddress(0x100000000), 8, false}}};
  REQUIRE(fake.Add(buffers));
  REQUIRE(queue.Pop(chain) == Virtqueue::PopResult::kChain);
  CHECK(chain.readable().size() == 16);
}

TEST_CASE("virtqueue: activation refuses impossible settings") {
  GuestMemory memory = MakeMemory();
  VirtqueueFake fake(&memory, kRings, kSize);
  VirtqueueState settings = fake.Settings();
  SECTION("size 0") { settings.size = 0; }
  SECTION("a size that is no power of two") { settings.size = 6; }
  SECTION("a size beyond the limit") { settings.size = 2 * kMaxQueueSize; }
  SECTION("misaligned descriptors") { settings.descriptors = GuestAddress(0x1008); }
  SECTION("a misaligned driver area") { settings.driver_area = GuestAddress(0x1001); }
  SECTION("a misaligned device area") { settings.device_area = GuestAddress(0x1002); }
  SECTION("descriptors outside RAM") { settings.descriptors = GuestAddress(kRamBytes); }
  SECTION("a driver area that ends outside RAM") {
    settings.driver_area = GuestAddress(kRamBytes - 8);
  }
  SECTION("a device area that wraps") { settings.device_area = GuestAddress(UINT64_MAX - 3); }
  Virtqueue queue;
  DescriptorChain chain;
  CHECK_FALSE(queue.Activate(memory, settings).empty());
  CHECK_FALSE(queue.active());
  CHECK(queue.Pop(chain) == Virtqueue::PopResult::kEmpty);
  CHECK_FALSE(queue.TakeInterruptNeeded());
  CHECK_FALSE(queue.EnableNotification());
}

TEST_CASE("virtqueue: without EVENT_IDX the driver's flag suppresses interrupts") {
  Fixture f;
  const std::array<VirtqueueFake::Buffer, 1> buffers = {{{kData, 16, true}}};
  CHECK_FALSE(f.queue.TakeInterruptNeeded());
  REQUIRE(f.fake.Add(buffers));
  f.Pop();
  f.queue.Push(f.chain, 0);
  CHECK(f.queue.TakeInterruptNeeded());
  CHECK_FALSE(f.queue.TakeInterruptNeeded());
  f.fake.SetAvailFlags(1);
  REQUIRE(f.fake.Add(buffers));
  f.Pop();
  f.queue.Push(f.chain, 0);
  CHECK_FALSE(f.queue.TakeInterruptNeeded());
}

TEST_CASE("virtqueue: with EVENT_IDX an interrupt comes only for the entry asked for") {
  Fixture f(true);
  const std::array<VirtqueueFake::Buffer, 1> buffers = {{{kData, 16, true}}};
  f.fake.SetUsedEvent(2);
  for (int i = 0; i < 4; ++i) {
    REQUIRE(f.fake.Add(buffers));
    f.Pop();
    f.queue.Push(f.chain, 0);
    CHECK(f.queue.TakeInterruptNeeded() == (i == 2));
  }
}

TEST_CASE("virtqueue: with EVENT_IDX the device tells which chain it wants to hear of") {
  Fixture f(true);
  const std::array<VirtqueueFake::Buffer, 1> buffers = {{{kData, 16, true}}};
  REQUIRE(f.fake.Add(buffers));
  f.Pop();
  CHECK_FALSE(f.queue.EnableNotification());
  CHECK(f.fake.AvailEvent() == 1);
  REQUIRE(f.fake.Add(buffers));
  CHECK(f.queue.EnableNotification());  // It came before the event was written: do not wait.
}

TEST_CASE("virtqueue: its state restores it") {
  Fixture f;
  const std::array<VirtqueueFake::Buffer, 1> buffers = {{{kData, 16, true}}};
  REQUIRE(f.fake.Add(buffers));
  REQUIRE(f.fake.Add(buffers));
  f.Pop();
  f.queue.Push(f.chain, 0);
  Virtqueue restored;
  REQUIRE(restored.Activate(f.memory, f.queue.state()).empty());
  REQUIRE(restored.Pop(f.chain) == Virtqueue::PopResult::kChain);
  restored.Push(f.chain, 0);
  CHECK(f.fake.UsedIndex() == 2);
}

TEST_CASE("virtqueue: a restored queue goes on at its place, over the end of the indices too") {
  GuestMemory memory = MakeMemory();
  VirtqueueFake fake(&memory, kRings, kSize);
  VirtqueueState state = fake.Settings();
  state.next_avail = state.next_used = state.signalled_used = UINT16_MAX;
  // The driver's index has wrapped: the entries of slots 7 and 0 wait.
  fake.SetDescriptor(3, kData.value(), 16, kFakeWrite, 0);
  memory.WriteValue(GuestAddress(fake.driver_area().value() + 4 + 2 * 7), Le16(3));
  memory.WriteValue(GuestAddress(fake.driver_area().value() + 4), Le16(3));
  fake.SetAvailIndex(1);
  Virtqueue queue;
  DescriptorChain chain;
  REQUIRE(queue.Restore(memory, state).empty());
  CHECK(queue.Waiting() == 2);
  for (int i = 0; i < 2; ++i) {
    REQUIRE(queue.Pop(chain) == Virtqueue::PopResult::kChain);
    queue.Push(chain, 0);
  }
  CHECK(queue.Waiting() == 0);
  CHECK(fake.UsedIndex() == 1);
  CHECK(queue.TakeInterruptNeeded());
}

TEST_CASE("virtqueue: a restored queue that was broken still is") {
  GuestMemory memory = MakeMemory();
  VirtqueueFake fake(&memory, kRings, kSize);
  VirtqueueState state = fake.Settings();
  state.broken = true;
  Virtqueue queue;
  DescriptorChain chain;
  REQUIRE(queue.Restore(memory, state).empty());
  CHECK(queue.Pop(chain) == Virtqueue::PopResult::kBroken);
  CHECK_FALSE(queue.broken_reason().empty());
}

TEST_CASE("virtqueue: restored indices may be as far apart as the queue is long, not more") {
  GuestMemory memory = MakeMemory();
  VirtqueueFake fake(&memory, kRings, kSize);
  VirtqueueState state = fake.Settings();
  Virtqueue queue;
  state.next_avail = kSize;
  CHECK(queue.Restore(memory, state).empty());
  state.next_avail = kSize + 1;
  CHECK_FALSE(queue.Restore(memory, state).empty());
  state.next_avail = state.next_used = kSize;
  CHECK(queue.Restore(memory, state).empty());
  state.next_avail = state.next_used = kSize + 1;
  CHECK_FALSE(queue.Restore(memory, state).empty());
}

TEST_CASE("virtqueue: a notification of more asks for the chain after those that wait") {
  Fixture f(true);
  const std::array<VirtqueueFake::Buffer, 1> buffers = {{{kData, 16, true}}};
  for (int i = 0; i < 3; ++i) REQUIRE(f.fake.Add(buffers));
  CHECK(f.queue.EnableNotificationOfMore() == 3);
  CHECK(f.fake.AvailEvent() == 3);
  REQUIRE(f.fake.Add(buffers));
  CHECK(f.queue.avail_index() == 4);
}

}  // namespace
}  // namespace hearth::vmm
