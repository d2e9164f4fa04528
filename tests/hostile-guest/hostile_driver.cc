// SPDX-License-Identifier: Apache-2.0
#include "tests/hostile-guest/hostile_driver.h"

namespace hearth::vmm::testing {

HostileDriver& HostileDriver::Negotiate() {
  Set(kStatus, 0).Set(kStatus, kStatusAck).Set(kStatus, kStatusAck | kStatusDriver);
  Set(kDriverFeaturesSelect, 0).Set(kDriverFeatures, 0);
  Set(kDriverFeaturesSelect, 1).Set(kDriverFeatures, 1);  // VERSION_1.
  return Set(kStatus, kStatusAck | kStatusDriver | kStatusFeaturesOk);
}

HostileDriver& HostileDriver::SetUpQueue(uint32_t queue, uint32_t size) {
  script_.Fill(QueueMemory(queue), 0, 0x6000 / 4);
  Set(kQueueSelect, queue).Set(kQueueSize, size);
  Set(kQueueDescriptorsLow, Descriptors(queue)).Set(kQueueDescriptorsHigh, 0);
  Set(kQueueDriverLow, Available(queue)).Set(kQueueDriverHigh, 0);
  Set(kQueueDeviceLow, Used(queue)).Set(kQueueDeviceHigh, 0);
  return Set(kQueueReady, 1);
}

HostileDriver& HostileDriver::BringUp(uint32_t size) {
  Negotiate();
  for (uint32_t queue = 0; queue < queue_count(); ++queue) SetUpQueue(queue, size);
  return DriverOk();
}

HostileDriver& HostileDriver::Describe(uint32_t queue, uint32_t index,
                                       const Descriptor& descriptor) {
  const uint32_t at = Descriptors(queue) + index * 16;
  script_.Write32(at, static_cast<uint32_t>(descriptor.address));
  script_.Write32(at + 4, static_cast<uint32_t>(descriptor.address >> 32));
  script_.Write32(at + 8, descriptor.length);
  script_.Write32(at + 12, descriptor.flags | uint32_t{descriptor.next} << 16);
  return *this;
}

HostileDriver& HostileDriver::Offer(uint32_t queue, const std::vector<uint16_t>& heads,
                                    uint16_t index) {
  for (uint32_t i = 0; i < heads.size(); ++i) {
    script_.Write16(Available(queue) + 4 + i * 2, heads[i]);
  }
  script_.Write16(Available(queue) + 2, index);
  return Notify(queue);
}

HostileDriver& HostileDriver::DescribeGoodRequest(uint32_t first, uint32_t head) {
  const uint32_t queue = request_queue();
  const auto id = [first](uint32_t offset) { return static_cast<uint16_t>(first + offset); };
  switch (target_) {
    case Target::kReadOnlyDisk:
    case Target::kDisk:
      script_.Fill(head, 0, 4);  // Type 0: read, sector 0.
      Describe(queue, first, {head, 16, kNext, id(1)});
      Describe(queue, first + 1, {kBuffers + 0x1000, 512, kNext | kWrite, id(2)});
      return Describe(queue, first + 2, {kBuffers + 0x800, 1, kWrite, 0});
    case Target::kRng:
      return Describe(queue, first, {head, 64, kWrite, 0});
    case Target::kVsock: {
      const uint32_t header[11] = {3, 0, 2, 0, 5000, 6000, 0, 1 | 3u << 16, 0, 4096, 0};
      for (uint32_t i = 0; i < 11; ++i) script_.Write32(head + i * 4, header[i]);
      return Describe(queue, first, {head, 44, 0, 0});
    }
  }
  return *this;
}

HostileDriver& HostileDriver::ProveHealthy() {
  BringUp();
  DescribeGoodRequest();
  Offer(request_queue(), {0});
  return AwaitUsed(request_queue(), 1);
}

}  // namespace hearth::vmm::testing
