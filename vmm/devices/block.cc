// SPDX-License-Identifier: Apache-2.0
#include "vmm/devices/block.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

namespace hearth::vmm {
namespace {

// VIRTIO 1.2, 5.2.3.
constexpr uint64_t kFeatureSizeMax = uint64_t{1} << 1;
constexpr uint64_t kFeatureSegMax = uint64_t{1} << 2;
constexpr uint64_t kFeatureReadOnly = uint64_t{1} << 5;
constexpr uint64_t kFeatureBlockSize = uint64_t{1} << 6;
constexpr uint64_t kFeatureFlush = uint64_t{1} << 9;

constexpr std::array<uint16_t, 1> kBlockQueueSizes = {kBlockQueueSize};

// The head of struct virtio_blk_config (5.2.4); what follows belongs to features not offered.
struct BlockConfig {
  Le64 capacity;
  Le32 size_max;
  Le32 seg_max;
  uint8_t geometry[4];
  Le32 block_size;
};
static_assert(sizeof(BlockConfig) == 24);

// EINTR and short transfers are tried again; nothing left to transfer is success.
template <typename Transfer>
bool TransferAll(GuestBuffer& data, uint64_t offset, Transfer transfer) {
  while (data.size() != 0) {
    const auto iov = data.iov();
    const ssize_t done = transfer(iov.data(), static_cast<int>(iov.size()), offset);
    if (done < 0 && errno == EINTR) continue;
    if (done <= 0) return false;  // 0: the file has become shorter than its capacity.
    data.Skip(static_cast<uint64_t>(done));
    offset += static_cast<uint64_t>(done);
  }
  return true;
}

}  // namespace

absl::StatusOr<std::unique_ptr<Block>> Block::Create(Options options) {
  if (options.serial.size() > kBlockIdBytes) {
    return absl::InvalidArgumentError(
        absl::StrCat("block: serial of more than ", kBlockIdBytes, " bytes"));
  }
  const int flags = fcntl(options.file.get(), F_GETFL);
  if (flags < 0) return ErrnoStatus("block: not an open descriptor");
  const int mode = flags & O_ACCMODE;
  if (mode == O_WRONLY || (!options.read_only && mode != O_RDWR) || (flags & O_PATH) != 0) {
    return absl::InvalidArgumentError("block: the disk is not open for what was asked");
  }
  struct stat info;
  if (fstat(options.file.get(), &info) != 0) return ErrnoStatus("block: fstat");
  if (!S_ISREG(info.st_mode) && !S_ISBLK(info.st_mode)) {
    return absl::InvalidArgumentError("block: the disk is no file and no block device");
  }
  const off_t size = lseek(options.file.get(), 0, SEEK_END);
  if (size < 0) return ErrnoStatus("block: find the disk's size");
  const uint64_t sectors = static_cast<uint64_t>(size) / kSectorBytes;
  if (sectors == 0) return absl::InvalidArgumentError("block: the disk holds no whole sector");
  return std::unique_ptr<Block>(new Block(std::move(options), sectors));
}

Block::Block(Options options, uint64_t capacity_sectors)
    : file_(std::move(options.file)),
      read_only_(options.read_only),
      serial_(std::move(options.serial)),
      capacity_sectors_(capacity_sectors) {}

uint64_t Block::features() const {
  return kFeatureSizeMax | kFeatureSegMax | kFeatureBlockSize | kFeatureFlush |
         (read_only_ ? kFeatureReadOnly : 0);
}

std::span<const uint16_t> Block::queue_max_sizes() const { return kBlockQueueSizes; }

void Block::ReadConfig(uint64_t offset, std::span<uint8_t> data) const {
  const BlockConfig config{.capacity = capacity_sectors_,
                           .size_max = kBlockMaxSegmentBytes,
                           .seg_max = kBlockMaxSegments,
                           .geometry = {},
                           .block_size = static_cast<uint32_t>(kSectorBytes)};
  CopyConfig({reinterpret_cast<const uint8_t*>(&config), sizeof(config)}, offset, data);
}

void Block::ProcessQueue(uint16_t index) {
  Virtqueue& queue = context_->queue(index);
  uint64_t turn_bytes = 0;
  uint32_t turn_requests = 0;
  bool yielded = false;
  do {
    Virtqueue::PopResult result;
    while ((result = queue.Pop(chain_)) == Virtqueue::PopResult::kChain) {
      auto request = ParseBlockRequest(chain_);
      if (!request) {
        context_->FailDevice("block request without a header or a status byte");
        return;
      }
      turn_bytes +=
          request->command == BlockCommand::kFlush ? kBlockFlushBytes : request->data.size();
      uint64_t written = 0;
      const BlockStatus status = Execute(*request, written);
      if (status == BlockStatus::kIoError) ++counters_.failed_requests;
      request->status.Store(0, static_cast<uint8_t>(status));
      queue.Push(chain_, static_cast<uint32_t>(written + 1));
      yielded = turn_bytes >= kBlockTurnBytes || ++turn_requests == kBlockTurnRequests;
      if (yielded) break;
    }
    if (result == Virtqueue::PopResult::kBroken) {
      context_->FailDevice(queue.broken_reason());
      return;
    }
  } while (!yielded && queue.EnableNotification());
  context_->SignalUsed(index);
  if (yielded) context_->ScheduleQueue(index);
}

BlockStatus Block::Execute(BlockRequest& request, uint64_t& written) {
  switch (request.command) {
    case BlockCommand::kRead:
      return ReadData(request, written);
    case BlockCommand::kWrite:
      return WriteData(request);
    case BlockCommand::kFlush:
      return FlushFile();
    case BlockCommand::kGetId:
      return ReadId(request, written);
    case BlockCommand::kUnsupported:
      break;
  }
  return BlockStatus::kUnsupported;
}

bool Block::InRange(const BlockRequest& request) const {
  const uint64_t bytes = request.data.size();
  if (bytes == 0 || bytes % kSectorBytes != 0 || bytes > kBlockMaxRequestBytes) return false;
  return request.sector < capacity_sectors_ &&
         bytes / kSectorBytes <= capacity_sectors_ - request.sector;
}

BlockStatus Block::ReadData(BlockRequest& request, uint64_t& written) {
  if (!InRange(request)) return BlockStatus::kIoError;
  const uint64_t bytes = request.data.size();
  const bool ok = TransferAll(request.data, request.sector * kSectorBytes,
                              [this](const iovec* iov, int count, uint64_t offset) {
                                return preadv(file_.get(), iov, count, static_cast<off_t>(offset));
                              });
  if (!ok) return BlockStatus::kIoError;
  written += bytes;
  counters_.read_bytes += bytes;
  return BlockStatus::kOk;
}

BlockStatus Block::WriteData(BlockRequest& request) {
  if (read_only_ || !InRange(request)) return BlockStatus::kIoError;
  const uint64_t bytes = request.data.size();
  const bool ok = TransferAll(request.data, request.sector * kSectorBytes,
                              [this](const iovec* iov, int count, uint64_t offset) {
                                return pwritev(file_.get(), iov, count, static_cast<off_t>(offset));
                              });
  if (!ok) return BlockStatus::kIoError;
  counters_.write_bytes += bytes;
  return BlockStatus::kOk;
}

BlockStatus Block::FlushFile() {
  if (read_only_) return BlockStatus::kOk;
  return fdatasync(file_.get()) == 0 ? BlockStatus::kOk : BlockStatus::kIoError;
}

BlockStatus Block::ReadId(BlockRequest& request, uint64_t& written) {
  std::array<uint8_t, kBlockIdBytes> id{};
  std::memcpy(id.data(), serial_.data(), serial_.size());
  if (!request.data.CopyIn(id)) return BlockStatus::kIoError;
  written += id.size();
  return BlockStatus::kOk;
}

}  // namespace hearth::vmm
