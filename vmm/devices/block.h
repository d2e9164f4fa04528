// SPDX-License-Identifier: Apache-2.0
// virtio-blk (VIRTIO 1.2, 5.2) on a file or a block device.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <string>

#include "vmm/base/status.h"
#include "vmm/base/unique_fd.h"
#include "vmm/devices/block_request.h"
#include "vmm/virtio/virtio_device.h"

namespace hearth::vmm {

// Limits. A request fits its queue: header, segments, status. Data is never buffered here: the
// kernel copies between the file and guest memory.
inline constexpr uint16_t kBlockQueueSize = 128;
inline constexpr uint32_t kBlockMaxSegments = kBlockQueueSize - 2;
inline constexpr uint32_t kBlockMaxSegmentBytes = 64 * 1024;
inline constexpr uint64_t kBlockMaxRequestBytes =
    uint64_t{kBlockMaxSegments} * kBlockMaxSegmentBytes;
// After this much the loop's thread sees to others before the queue goes on. A flush, which waits
// for the disk, counts as so many bytes.
inline constexpr uint64_t kBlockTurnBytes = 16 * 1024 * 1024;
inline constexpr uint64_t kBlockFlushBytes = 2 * 1024 * 1024;
inline constexpr uint32_t kBlockTurnRequests = kBlockQueueSize / 2;

struct BlockCounters {
  uint64_t read_bytes = 0;
  uint64_t write_bytes = 0;
  uint64_t failed_requests = 0;
};

class Block : public VirtioDevice {
 public:
  struct Options {
    UniqueFd file;
    bool read_only = false;
    std::string serial;  // At most 20 bytes.
  };
  // InvalidArgument for a descriptor that is no file or block device, is not open for what is
  // asked, or holds no whole sector; and for a serial that is too long.
  static absl::StatusOr<std::unique_ptr<Block>> Create(Options options);

  std::string_view name() const override { return "block"; }
  uint32_t device_id() const override { return 2; }
  uint64_t features() const override;
  std::span<const uint16_t> queue_max_sizes() const override;
  void ReadConfig(uint64_t offset, std::span<uint8_t> data) const override;
  void Activate(VirtioContext* context) override { context_ = context; }
  void Reset() override { context_ = nullptr; }
  void ProcessQueue(uint16_t index) override;

  uint64_t capacity_sectors() const { return capacity_sectors_; }
  bool read_only() const { return read_only_; }
  const std::string& serial() const { return serial_; }
  const BlockCounters& counters() const { return counters_; }

 private:
  Block(Options options, uint64_t capacity_sectors);

  // Each returns the status byte; `written` grows by what was put into guest memory.
  BlockStatus Execute(BlockRequest& request, uint64_t& written);
  bool InRange(const BlockRequest& request) const;
  BlockStatus ReadData(BlockRequest& request, uint64_t& written);
  BlockStatus WriteData(BlockRequest& request);
  BlockStatus FlushFile();
  BlockStatus ReadId(BlockRequest& request, uint64_t& written);

  UniqueFd file_;
  bool read_only_;
  std::string serial_;
  uint64_t capacity_sectors_;
  VirtioContext* context_ = nullptr;
  BlockCounters counters_;
  DescriptorChain chain_;
};

}  // namespace hearth::vmm
