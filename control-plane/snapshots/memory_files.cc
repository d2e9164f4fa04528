// SPDX-License-Identifier: Apache-2.0
#include "control-plane/snapshots/memory_files.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <deque>
#include <vector>

#include "absl/strings/escaping.h"
#include "control-plane/snapshots/format.h"
#include "control-plane/snapshots/limits.h"
#include "vmm/base/read_at.h"
#include "vmm/base/status.h"
#include "wire/limits.h"

namespace hearth::control {
namespace {

constexpr size_t kChunk = limits::kSnapshotChunkBytes;
constexpr size_t kPage = wire::kGuestPageBytes;
// How far reading runs ahead of verifying: 4 MiB, and as many descriptors.
constexpr size_t kChunksAhead = 64;

absl::Status WriteAt(int file, uint64_t offset, absl::string_view bytes) {
  while (!bytes.empty()) {
    const ssize_t written = pwrite(file, bytes.data(), bytes.size(), static_cast<off_t>(offset));
    if (written < 0) {
      if (errno == EINTR) continue;
      return ErrnoStatus("write resident memory");
    }
    offset += static_cast<uint64_t>(written);
    bytes.remove_prefix(static_cast<size_t>(written));
  }
  return absl::OkStatus();
}

// Each run of pages at once; zero pages stay holes, which take no memory.
absl::Status WritePages(int file, uint64_t offset, StoredChunk chunk) {
  for (uint32_t page = 0; page < kChunk / kPage;) {
    uint32_t end = page;
    while (end < kChunk / kPage && (chunk.pages >> end & 1) != 0) ++end;
    const size_t bytes = (end - page) * kPage;
    RETURN_IF_ERROR(WriteAt(file, offset + page * kPage, chunk.data.substr(0, bytes)));
    chunk.data.remove_prefix(bytes);
    page = end + 1;
  }
  return absl::OkStatus();
}

absl::StatusOr<UniqueFd> NewMemfd(const char* name, uint64_t bytes) {
  UniqueFd file(memfd_create(name, MFD_CLOEXEC | MFD_ALLOW_SEALING));
  if (!file || ftruncate(file.get(), static_cast<off_t>(bytes)) != 0) {
    return ErrnoStatus("make a memfd");
  }
  return file;
}

absl::Status Seal(int file) {
  if (fcntl(file, F_ADD_SEALS, F_SEAL_SEAL | F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE) != 0) {
    return ErrnoStatus("seal a memfd");
  }
  return absl::OkStatus();
}

// The chunks that are not zero, in the order in which they were written, and so lie on the disk.
std::vector<uint32_t> DataChunks(const hearth::snapshot::v1::Memory& manifest) {
  std::vector<uint32_t> chunks;
  const absl::string_view digests = manifest.chunks();
  for (size_t at = 0; at < digests.size(); at += limits::kSnapshotDigestBytes) {
    if (!IsZero(digests.substr(at, limits::kSnapshotDigestBytes))) {
      chunks.push_back(static_cast<uint32_t>(at / limits::kSnapshotDigestBytes));
    }
  }
  return chunks;
}

absl::Status LoadChunk(const absl::StatusOr<UniqueFd>& file, absl::string_view digest,
                       uint32_t index, KeyedDigest* keyed, int memory) {
  const auto bad = [&](const absl::Status& why) {
    // A chunk that is missing is a loss.
    return absl::Status(
        absl::IsNotFound(why) ? absl::StatusCode::kDataLoss : why.code(),
        absl::StrCat("chunk ", index, " (", absl::BytesToHexString(digest), ") ", why.message()));
  };
  if (!file.ok()) return bad(file.status());
  const absl::StatusOr<std::string> bytes = ReadFd(file->get(), limits::kMaxStoredChunkBytes);
  if (!bytes.ok()) return bad(bytes.status());
  // Judged before it is authenticated, for the words' sake; used after that.
  const absl::StatusOr<StoredChunk> chunk = ParseChunk(*bytes);
  if (!chunk.ok()) return bad(chunk.status());
  if (!SameDigest(Raw(keyed->Of(*bytes)), digest)) {
    return bad(absl::DataLossError("is altered, or another tenant's: its digest is another"));
  }
  return WritePages(memory, uint64_t{index} * kChunk, *chunk);
}

}  // namespace

absl::Status ForEachDataChunk(
    int file, uint64_t bytes,
    const std::function<absl::Status(uint64_t, absl::string_view)>& take) {
  struct stat info = {};
  if (fstat(file, &info) != 0) return ErrnoStatus("stat a saved memory");
  if (static_cast<uint64_t>(info.st_size) != bytes) {
    return absl::InvalidArgumentError(
        absl::StrCat("the saved memory has ", info.st_size, " bytes, not ", bytes));
  }
  std::string buffer(kChunk, '\0');
  uint64_t at = 0;
  while (at < bytes) {
    const off_t data = lseek(file, static_cast<off_t>(at), SEEK_DATA);
    if (data < 0 && errno == ENXIO) break;  // Nothing but a hole up to the end.
    // A file system that knows no holes answers EINVAL: then all is data.
    if (data >= 0) at = static_cast<uint64_t>(data) / kChunk * kChunk;
    const size_t size = std::min<uint64_t>(kChunk, bytes - at);
    RETURN_IF_ERROR(ReadAt(file, at, {buffer.data(), size}, "a saved machine's memory"));
    const absl::string_view chunk = absl::string_view(buffer).substr(0, size);
    if (!IsZero(chunk)) RETURN_IF_ERROR(take(at / kChunk, chunk));
    at += size;
  }
  return absl::OkStatus();
}

absl::StatusOr<std::string> ReadWhole(int file, size_t limit) {
  struct stat info = {};
  if (fstat(file, &info) != 0) return ErrnoStatus("stat a saved state");
  if (info.st_size <= 0 || static_cast<uint64_t>(info.st_size) > limit) {
    return absl::InvalidArgumentError(absl::StrCat("the saved state has ", info.st_size,
                                                   " bytes; 1 to ", limit, " are possible"));
  }
  std::string bytes(static_cast<size_t>(info.st_size), '\0');
  RETURN_IF_ERROR(ReadAt(file, 0, {bytes.data(), bytes.size()}, "a saved machine's state"));
  return bytes;
}

absl::StatusOr<UniqueFd> LoadMemory(const ChunkStore& chunks, const std::string& tenant,
                                    const TenantKeys& keys,
                                    const hearth::snapshot::v1::Memory& manifest) {
  ASSIGN_OR_RETURN(UniqueFd file, NewMemfd("hearth-memory", manifest.bytes()));
  const std::vector<uint32_t> order = DataChunks(manifest);
  if (!order.empty()) {
    absl::StatusOr<UniqueFd> folder = chunks.OpenTenant(tenant);
    if (absl::IsNotFound(folder.status())) {
      return absl::DataLossError("the tenant's chunks are missing");
    }
    RETURN_IF_ERROR(folder.status());
    KeyedDigest keyed(keys.content);
    const auto digest_of = [&](size_t place) {
      return absl::string_view(manifest.chunks())
          .substr(order[place] * limits::kSnapshotDigestBytes, limits::kSnapshotDigestBytes);
    };
    // Opened ahead, so that the disk reads while digests are made.
    std::deque<absl::StatusOr<UniqueFd>> ahead;
    for (size_t place = 0; place < order.size(); ++place) {
      while (ahead.size() < kChunksAhead && place + ahead.size() < order.size()) {
        ahead.push_back(ChunkStore::OpenChunk(folder->get(), digest_of(place + ahead.size())));
      }
      const absl::StatusOr<UniqueFd> chunk = std::move(ahead.front());
      ahead.pop_front();
      RETURN_IF_ERROR(LoadChunk(chunk, digest_of(place), order[place], &keyed, file.get()));
    }
  }
  RETURN_IF_ERROR(Seal(file.get()));
  return file;
}

absl::StatusOr<UniqueFd> SealedMemfd(const char* name, absl::string_view bytes) {
  ASSIGN_OR_RETURN(UniqueFd file, NewMemfd(name, bytes.size()));
  RETURN_IF_ERROR(WriteAt(file.get(), 0, bytes));
  RETURN_IF_ERROR(Seal(file.get()));
  return file;
}

}  // namespace hearth::control
