// SPDX-License-Identifier: Apache-2.0
#include "control-plane/images/unpack.h"

#include <archive.h>
#include <archive_entry.h>
#include <fcntl.h>
#include <sys/stat.h>

#include <memory>
#include <vector>

#include "absl/strings/escaping.h"
#include "absl/strings/match.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "control-plane/limits.h"
#include "vmm/base/status.h"
#include "vmm/base/unique_fd.h"

namespace hearth::control {
namespace {

constexpr int64_t kFolderBytes = 4096;  // What an empty one takes on the state directory's disk.

struct FreeArchive {
  void operator()(archive* reader) const { archive_read_free(reader); }
};
using Reader = std::unique_ptr<archive, FreeArchive>;

absl::Status Bad(absl::string_view path, absl::string_view why) {
  return absl::InvalidArgumentError(
      absl::StrCat("archive entry '", absl::CHexEscape(path), "': ", why));
}

absl::Status TooLarge(absl::string_view path) {
  return Bad(path, absl::StrCat("unpacked, the archive is over the limit of ",
                                limits::kMaxUnpackedBytes, " bytes"));
}

// "./a//b/" as {"a", "b"}; an error when it leaves the folder.
absl::StatusOr<std::vector<std::string>> Split(absl::string_view path) {
  if (path.size() > limits::kMaxEntryPathBytes)
    return Bad(path.substr(0, 64), "its path is too long");
  if (absl::StartsWith(path, "/")) return Bad(path, "its path is absolute");
  std::vector<std::string> parts;
  for (absl::string_view part : absl::StrSplit(path, '/')) {
    if (part.empty() || part == ".") continue;
    if (part == "..") return Bad(path, "its path holds '..'");
    if (part.size() > 255) return Bad(path.substr(0, 64), "a name in its path is too long");
    parts.emplace_back(part);
  }
  return parts;
}

// Whether a symbolic link at `parts` with `target` stays inside, judged by names alone.
bool StaysInside(const std::vector<std::string>& parts, absl::string_view target) {
  if (target.empty() || absl::StartsWith(target, "/")) return false;
  int depth = static_cast<int>(parts.size()) - 1;
  for (absl::string_view part : absl::StrSplit(target, '/')) {
    if (part.empty() || part == ".") continue;
    depth += part == ".." ? -1 : 1;
    if (depth < 0) return false;
  }
  return true;
}

class Unpacker {
 public:
  Unpacker(UniqueFd root, const Cancellation& cancellation)
      : root_(std::move(root)), cancellation_(cancellation) {}

  absl::Status Run(archive* reader) {
    while (true) {
      if (cancellation_.cancelled()) return absl::CancelledError("unpacking was cancelled");
      archive_entry* entry = nullptr;
      const int code = archive_read_next_header(reader, &entry);
      if (code == ARCHIVE_EOF) return absl::OkStatus();
      if (code != ARCHIVE_OK && code != ARCHIVE_WARN) {
        return absl::InvalidArgumentError(absl::StrCat(
            "the archive cannot be read: ",
            absl::CHexEscape(archive_error_string(reader) != nullptr ? archive_error_string(reader)
                                                                     : "no reason given")));
      }
      RETURN_IF_ERROR(CountEntry());
      RETURN_IF_ERROR(One(reader, entry));
    }
  }

 private:
  absl::Status One(archive* reader, archive_entry* entry) {
    const char* raw = archive_entry_pathname(entry);
    if (raw == nullptr) return Bad("?", "its path cannot be read");
    const std::string path = raw;
    ASSIGN_OR_RETURN(const std::vector<std::string> parts, Split(path));
    const mode_t type = archive_entry_filetype(entry);
    const char* hard_link = archive_entry_hardlink(entry);
    if (parts.empty()) {
      return type == AE_IFDIR ? absl::OkStatus() : Bad(path, "it has no name");
    }
    ASSIGN_OR_RETURN(UniqueFd parent, Folder(parts, parts.size() - 1, path));
    if (hard_link != nullptr) return HardLink(parent, parts.back(), path, hard_link);
    switch (type) {
      case AE_IFDIR:
        return Enter(parent, parts.back(), path, nullptr).status();
      case AE_IFREG:
        return File(reader, entry, parent, parts.back(), path);
      case AE_IFLNK: {
        const char* target = archive_entry_symlink(entry);
        if (target == nullptr || !StaysInside(parts, target)) {
          return Bad(path, "it is a symbolic link that leaves the archive");
        }
        if (symlinkat(target, parent.get(), parts.back().c_str()) != 0) {
          return errno == EEXIST ? Bad(path, "it is there twice") : ErrnoStatus(path);
        }
        return absl::OkStatus();
      }
      default:
        return Bad(path, "it is no file, folder or link (a device or a socket?)");
    }
  }

  absl::Status CountEntry() {
    if (++entries_ <= limits::kMaxArtifactEntries) return absl::OkStatus();
    return absl::InvalidArgumentError(absl::StrCat("the archive has over ",
                                                   limits::kMaxArtifactEntries,
                                                   " entries, folders that they imply included"));
  }

  absl::Status CountBytes(int64_t bytes, const std::string& path) {
    if (bytes > limits::kMaxUnpackedBytes - unpacked_) return TooLarge(path);
    unpacked_ += bytes;
    return absl::OkStatus();
  }

  // The folder made of the first `count` parts. One that is made here no entry has named, so it
  // counts as one: else a short archive of long paths would make millions.
  absl::StatusOr<UniqueFd> Folder(const std::vector<std::string>& parts, size_t count,
                                  const std::string& path) {
    UniqueFd folder(dup(root_.get()));
    if (!folder) return ErrnoStatus("dup");
    for (size_t i = 0; i < count; ++i) {
      bool made = false;
      ASSIGN_OR_RETURN(folder, Enter(folder, parts[i], path, &made));
      if (made) RETURN_IF_ERROR(CountEntry());
    }
    return folder;
  }

  // The folder `name` in `parent`, made where absent, never through a link.
  absl::StatusOr<UniqueFd> Enter(const UniqueFd& parent, const std::string& name,
                                 const std::string& path, bool* made) {
    const bool is_new = mkdirat(parent.get(), name.c_str(), 0755) == 0;
    if (!is_new && errno != EEXIST) return ErrnoStatus(path);
    UniqueFd folder(
        openat(parent.get(), name.c_str(), O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC));
    if (!folder) {
      if (errno == ELOOP || errno == ENOTDIR)
        return Bad(path, "its path leads through a link or a file");
      return ErrnoStatus(path);
    }
    if (made != nullptr) *made = is_new;
    if (!is_new) return folder;
    RETURN_IF_ERROR(CountBytes(kFolderBytes, path));
    // Whatever hearthd's umask: in the guest another user looks at it.
    if (fchmod(folder.get(), 0755) != 0) return ErrnoStatus(path);
    return folder;
  }

  absl::Status HardLink(const UniqueFd& parent, const std::string& name, const std::string& path,
                        const std::string& target) {
    ASSIGN_OR_RETURN(const std::vector<std::string> parts, Split(target));
    if (parts.empty()) return Bad(path, "it is a link to nothing");
    ASSIGN_OR_RETURN(UniqueFd from, Folder(parts, parts.size() - 1, path));
    struct stat info = {};
    if (fstatat(from.get(), parts.back().c_str(), &info, AT_SYMLINK_NOFOLLOW) != 0 ||
        !S_ISREG(info.st_mode)) {
      return Bad(path, "it is a hard link to what is not a file of the archive");
    }
    if (linkat(from.get(), parts.back().c_str(), parent.get(), name.c_str(), 0) != 0) {
      return errno == EEXIST ? Bad(path, "it is there twice") : ErrnoStatus(path);
    }
    return absl::OkStatus();
  }

  absl::Status File(archive* reader, archive_entry* entry, const UniqueFd& parent,
                    const std::string& name, const std::string& path) {
    const mode_t mode = (archive_entry_perm(entry) & 0100) != 0 ? 0755 : 0644;
    // A later entry replaces an earlier file, as tar does.
    unlinkat(parent.get(), name.c_str(), 0);
    UniqueFd file(openat(parent.get(), name.c_str(),
                         O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, mode));
    if (!file) return ErrnoStatus(path);
    if (fchmod(file.get(), mode) != 0) return ErrnoStatus(path);
    int64_t end = 0;
    while (true) {
      if (cancellation_.cancelled()) return absl::CancelledError("unpacking was cancelled");
      const void* block = nullptr;
      size_t size = 0;
      la_int64_t offset = 0;
      const int code = archive_read_data_block(reader, &block, &size, &offset);
      if (code == ARCHIVE_EOF) return Finish(file, end, archive_entry_size(entry), path);
      if (code != ARCHIVE_OK && code != ARCHIVE_WARN)
        return Bad(path, "its content is cut off or damaged");
      if (offset < 0 || offset > limits::kMaxUnpackedBytes - static_cast<int64_t>(size)) {
        return TooLarge(path);
      }
      RETURN_IF_ERROR(Grow(&end, offset + static_cast<int64_t>(size), path));
      RETURN_IF_ERROR(WriteAt(file, static_cast<const char*>(block), size, offset, path));
    }
  }

  static absl::Status WriteAt(const UniqueFd& file, const char* data, size_t size, int64_t offset,
                              const std::string& path) {
    while (size > 0) {
      const ssize_t wrote = pwrite(file.get(), data, size, offset);
      if (wrote < 0) {
        if (errno == EINTR) continue;
        return ErrnoStatus(absl::StrCat("unpack ", path));
      }
      data += wrote;
      size -= wrote;
      offset += wrote;
    }
    return absl::OkStatus();
  }

  // A sparse file's holes count too: they are bytes of the image.
  absl::Status Grow(int64_t* end, int64_t to, const std::string& path) {
    if (to <= *end) return absl::OkStatus();
    RETURN_IF_ERROR(CountBytes(to - *end, path));
    *end = to;
    return absl::OkStatus();
  }

  // Gives a file that ends with a hole its size.
  absl::Status Finish(const UniqueFd& file, int64_t end, int64_t size, const std::string& path) {
    if (size <= end) return absl::OkStatus();
    RETURN_IF_ERROR(Grow(&end, size, path));
    return ftruncate(file.get(), size) == 0 ? absl::OkStatus() : ErrnoStatus(path);
  }

  const UniqueFd root_;
  const Cancellation& cancellation_;
  int64_t entries_ = 0;
  int64_t unpacked_ = 0;
};

}  // namespace

absl::Status Unpack(const std::string& archive, const std::string& folder,
                    const Cancellation& cancellation) {
  Reader reader(archive_read_new());
  if (!reader) return absl::ResourceExhaustedError("no memory to read the archive");
  archive_read_support_format_tar(reader.get());
  archive_read_support_format_zip_seekable(reader.get());
  archive_read_support_filter_gzip(reader.get());
  archive_read_support_filter_zstd(reader.get());
  if (archive_read_open_filename(reader.get(), archive.c_str(), 64 * 1024) != ARCHIVE_OK) {
    return absl::InvalidArgumentError(
        "the artifact is not a tar archive (plain, gzip or zstd) nor a zip");
  }
  UniqueFd root(open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (!root) return ErrnoStatus(absl::StrCat("open ", folder));
  return Unpacker(std::move(root), cancellation).Run(reader.get());
}

}  // namespace hearth::control
