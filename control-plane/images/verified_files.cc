// SPDX-License-Identifier: Apache-2.0
#include "control-plane/images/verified_files.h"

#include <sys/stat.h>

#include <filesystem>
#include <fstream>

#include "absl/strings/str_split.h"
#include "control-plane/images/digest.h"

namespace hearth::control {
namespace {

std::string IdentityOf(const struct stat& info, const std::string& digest) {
  return absl::StrCat(info.st_dev, " ", info.st_ino, " ", info.st_size, " ", info.st_mtim.tv_sec,
                      ".", info.st_mtim.tv_nsec, " ", info.st_ctim.tv_sec, ".",
                      info.st_ctim.tv_nsec, " ", digest);
}

}  // namespace

VerifiedFiles::VerifiedFiles(std::string cache_path) : cache_path_(std::move(cache_path)) {
  std::ifstream file(cache_path_);
  std::string line;
  while (std::getline(file, line)) {
    const std::pair<std::string, std::string> entry =
        absl::StrSplit(line, absl::MaxSplits('\t', 1));
    if (!entry.second.empty()) seen_[entry.first] = entry.second;
  }
}

absl::Status VerifiedFiles::Verify(const std::string& path, const std::string& digest) {
  struct stat info = {};
  if (stat(path.c_str(), &info) != 0) return ErrnoStatus(path);
  if (!S_ISREG(info.st_mode)) {
    return absl::DataLossError(absl::StrCat(path, " is not a regular file"));
  }
  const std::string identity = IdentityOf(info, digest);
  {
    absl::MutexLock lock(&mutex_);
    const auto found = seen_.find(path);
    if (found != seen_.end() && found->second == identity) return absl::OkStatus();
  }
  ASSIGN_OR_RETURN(const std::string actual, DigestOfFile(path));
  if (actual != digest) {
    return absl::DataLossError(absl::StrCat(path, " (", info.st_size, " bytes) has the digest ",
                                            actual, ", not ", digest,
                                            ": it is truncated, damaged or another file"));
  }
  absl::MutexLock lock(&mutex_);
  seen_[path] = identity;
  Save();
  return absl::OkStatus();
}

void VerifiedFiles::Save() {
  // A cache: losing it costs time only, so failures are passed over.
  const std::string temporary = absl::StrCat(cache_path_, ".new");
  std::error_code error;
  {
    std::ofstream file(temporary, std::ios::trunc);
    for (auto it = seen_.begin(); it != seen_.end();) {
      if (!std::filesystem::exists(it->first, error)) {
        it = seen_.erase(it);
        continue;
      }
      file << it->first << '\t' << it->second << '\n';
      ++it;
    }
    if (!file.flush()) return;
  }
  std::filesystem::rename(temporary, cache_path_, error);
}

}  // namespace hearth::control
