// SPDX-License-Identifier: Apache-2.0
#include "cli/pack.h"

#include <archive.h>
#include <archive_entry.h>
#include <fcntl.h>
#include <openssl/evp.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <memory>

#include "cli/config.h"
#include "cli/failure.h"

namespace hearth::cli {
namespace {

namespace fs = std::filesystem;

constexpr size_t kCopyBytes = 256 * 1024;

std::string ErrnoText() { return std::strerror(errno); }

UniqueFd OpenTemporary() {
  const char* folder = std::getenv("TMPDIR");
  if (folder == nullptr || *folder == '\0') folder = "/tmp";
  UniqueFd fd(open(folder, O_TMPFILE | O_RDWR | O_CLOEXEC, 0600));
  if (!fd && (errno == EOPNOTSUPP || errno == EISDIR || errno == EINVAL)) {
    std::string name = std::string(folder) + "/hearth-pack-XXXXXX";
    fd.reset(mkostemp(name.data(), O_CLOEXEC));
    if (fd) unlink(name.c_str());
  }
  if (!fd) {
    throw LocalError("cannot make a temporary file in " + std::string(folder) + ": " + ErrnoText(),
                     {"Set TMPDIR to a folder with room that you may write to."});
  }
  return fd;
}

// Takes the archive's bytes: to the file, and into the digest.
class Sink {
 public:
  Sink(int fd, const std::function<void(int64_t)>& progress)
      : fd_(fd), progress_(progress), context_(EVP_MD_CTX_new(), EVP_MD_CTX_free) {
    EVP_DigestInit_ex(context_.get(), EVP_sha256(), nullptr);
  }

  static la_ssize_t Write(archive* handle, void* self, const void* data, size_t size) {
    return static_cast<Sink*>(self)->Take(handle, data, size);
  }

  int64_t size() const { return size_; }
  std::string Digest() {
    std::array<unsigned char, EVP_MAX_MD_SIZE> bytes{};
    unsigned int length = 0;
    EVP_DigestFinal_ex(context_.get(), bytes.data(), &length);
    std::string text = "sha256:";
    for (unsigned int i = 0; i < length; ++i) {
      constexpr char kHex[] = "0123456789abcdef";
      text += kHex[bytes[i] >> 4];
      text += kHex[bytes[i] & 15];
    }
    return text;
  }

 private:
  la_ssize_t Take(archive* handle, const void* data, size_t size) {
    const auto* bytes = static_cast<const char*>(data);
    for (size_t done = 0; done < size;) {
      const ssize_t count = write(fd_, bytes + done, size - done);
      if (count < 0 && errno == EINTR) continue;
      if (count < 0) {
        archive_set_error(handle, errno, "%s", std::strerror(errno));
        return -1;
      }
      done += static_cast<size_t>(count);
    }
    EVP_DigestUpdate(context_.get(), data, size);
    size_ += static_cast<int64_t>(size);
    if (progress_) progress_(size_);
    return static_cast<la_ssize_t>(size);
  }

  int fd_;
  const std::function<void(int64_t)>& progress_;
  std::unique_ptr<EVP_MD_CTX, decltype(&EVP_MD_CTX_free)> context_;
  int64_t size_ = 0;
};

bool Ignored(const fs::path& relative) {
  if (relative == kConfigFile) return true;
  const std::string name = relative.filename().string();
  return std::any_of(std::begin(kIgnoredNames), std::end(kIgnoredNames),
                     [&](const char* ignored) { return name == ignored; });
}

// Paths below `directory`, in the order of their bytes, which puts a folder before what is in it.
std::vector<std::string> ListFolder(const fs::path& directory) {
  std::vector<std::string> paths;
  std::error_code error;
  fs::recursive_directory_iterator entry(directory, error);
  for (; !error && entry != fs::recursive_directory_iterator(); entry.increment(error)) {
    const fs::path relative = entry->path().lexically_relative(directory);
    if (Ignored(relative)) {
      entry.disable_recursion_pending();
      continue;
    }
    if (paths.size() == kMaxPackedEntries) {
      throw UsageError(
          directory.string() + " holds more than " + std::to_string(kMaxPackedEntries) + " files",
          {"Is it the right folder? Deploy the one that holds only the function."});
    }
    paths.push_back(relative.string());
  }
  if (error) {
    throw UsageError("cannot read the folder " + directory.string() + ": " + error.message());
  }
  std::sort(paths.begin(), paths.end());
  return paths;
}

class Packer {
 public:
  Packer(const fs::path& directory, Sink* sink)
      : directory_(directory), archive_(archive_write_new(), archive_write_free) {
    archive_write_set_format_pax_restricted(archive_.get());
    // Names are bytes: no locale decides how they are written.
    archive_write_set_options(archive_.get(), "hdrcharset=BINARY");
    // One record of 512 bytes behind another: no padding that could differ.
    archive_write_set_bytes_per_block(archive_.get(), 64 * 1024);
    archive_write_set_bytes_in_last_block(archive_.get(), 512);
    Check(archive_write_open(archive_.get(), sink, nullptr, &Sink::Write, nullptr));
  }

  void Add(const std::string& relative) {
    const fs::path path = directory_ / relative;
    struct stat info {};
    if (lstat(path.c_str(), &info) != 0) {
      throw UsageError("cannot read " + path.string() + ": " + ErrnoText());
    }
    std::unique_ptr<archive_entry, decltype(&archive_entry_free)> entry(archive_entry_new(),
                                                                        archive_entry_free);
    archive_entry_set_pathname(entry.get(), relative.c_str());
    archive_entry_set_mtime(entry.get(), 0, 0);
    archive_entry_set_uid(entry.get(), 0);
    archive_entry_set_gid(entry.get(), 0);
    if (S_ISDIR(info.st_mode)) {
      archive_entry_set_filetype(entry.get(), AE_IFDIR);
      archive_entry_set_perm(entry.get(), 0755);
      Check(archive_write_header(archive_.get(), entry.get()));
    } else if (S_ISLNK(info.st_mode)) {
      archive_entry_set_filetype(entry.get(), AE_IFLNK);
      archive_entry_set_perm(entry.get(), 0777);
      archive_entry_set_symlink(entry.get(), fs::read_symlink(path).c_str());
      Check(archive_write_header(archive_.get(), entry.get()));
    } else if (S_ISREG(info.st_mode)) {
      AddFile(path, entry.get());
    } else {
      throw UsageError(
          path.string() + " is neither a file, a folder nor a symbolic link",
          {"Take it out of the folder: sockets, pipes and devices cannot be deployed."});
    }
  }

  void Finish() { Check(archive_write_close(archive_.get())); }

 private:
  void AddFile(const fs::path& path, archive_entry* entry) {
    UniqueFd file(open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NOFOLLOW));
    struct stat info {};
    if (!file || fstat(file.get(), &info) != 0) {
      throw UsageError("cannot read " + path.string() + ": " + ErrnoText(),
                       {"Make it readable for you, or take it out of the folder."});
    }
    archive_entry_set_filetype(entry, AE_IFREG);
    archive_entry_set_perm(entry, (info.st_mode & 0111) != 0 ? 0755 : 0644);
    archive_entry_set_size(entry, info.st_size);
    Check(archive_write_header(archive_.get(), entry));
    int64_t left = info.st_size;
    while (true) {
      const ssize_t count = read(file.get(), buffer_.data(), buffer_.size());
      if (count < 0 && errno == EINTR) continue;
      if (count < 0) throw LocalError("cannot read " + path.string() + ": " + ErrnoText());
      left -= count;
      // One byte too many is as wrong as one too few: the archive would not be what was on disk.
      if (left < 0 || (count == 0 && left != 0)) {
        throw LocalError(path.string() + " changed while it was packed", {"Deploy again."});
      }
      if (count == 0) return;
      const la_ssize_t written =
          archive_write_data(archive_.get(), buffer_.data(), static_cast<size_t>(count));
      if (written != count) Check(ARCHIVE_FATAL);
    }
  }

  void Check(int result) {
    if (result >= ARCHIVE_WARN) return;
    const char* text = archive_error_string(archive_.get());
    throw LocalError(std::string("cannot pack the folder: ") + (text ? text : "unknown error"),
                     {"The archive is made in $TMPDIR (/tmp): is there room?"});
  }

  const fs::path directory_;
  std::unique_ptr<archive, decltype(&archive_write_free)> archive_;
  std::vector<char> buffer_ = std::vector<char>(kCopyBytes);
};

}  // namespace

PackedFolder PackFolder(const std::string& directory,
                        const std::function<void(int64_t)>& progress) {
  std::error_code error;
  const fs::path root = fs::canonical(directory, error);
  if (error) throw UsageError("cannot find the folder " + directory + ": " + error.message());
  if (!fs::is_directory(root)) {
    throw UsageError(directory + " is not a folder",
                     {"Give the folder that holds the function and its hearth.json."});
  }
  const std::vector<std::string> paths = ListFolder(root);
  if (paths.empty()) {
    throw UsageError(directory + " holds nothing to deploy",
                     {"Put the function's code beside hearth.json."});
  }
  PackedFolder packed;
  packed.file = OpenTemporary();
  Sink sink(packed.file.get(), progress);
  Packer packer(root, &sink);
  for (const std::string& path : paths) packer.Add(path);
  packer.Finish();
  packed.size_bytes = sink.size();
  packed.digest = sink.Digest();
  packed.entries = static_cast<int64_t>(paths.size());
  lseek(packed.file.get(), 0, SEEK_SET);
  return packed;
}

}  // namespace hearth::cli
