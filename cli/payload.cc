// SPDX-License-Identifier: Apache-2.0
#include "cli/payload.h"

#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <memory>
#include <nlohmann/json.hpp>
#include <utility>

#include "cli/json.h"

namespace hearth::cli {
namespace {

// Far above what the API takes: it keeps a wrong file from filling memory before hearthd refuses
// it.
constexpr size_t kMaxReadBytes = 64 * 1024 * 1024;

struct EndingType {
  const char* ending;
  const char* type;
};
constexpr EndingType kTypes[] = {
    {".json", "application/json"}, {".txt", "text/plain"},      {".md", "text/plain"},
    {".csv", "text/csv"},          {".html", "text/html"},      {".xml", "application/xml"},
    {".jpg", "image/jpeg"},        {".jpeg", "image/jpeg"},     {".png", "image/png"},
    {".gif", "image/gif"},         {".webp", "image/webp"},     {".svg", "image/svg+xml"},
    {".pdf", "application/pdf"},   {".gz", "application/gzip"}, {".zip", "application/zip"},
    {".mp3", "audio/mpeg"},        {".wav", "audio/wav"},       {".mp4", "video/mp4"}};

std::string ReadAll(const std::string& path) {
  const bool is_stdin = path == "-";
  std::unique_ptr<FILE, int (*)(FILE*)> opened(is_stdin ? nullptr : std::fopen(path.c_str(), "rbe"),
                                               [](FILE* f) { return f ? std::fclose(f) : 0; });
  FILE* file = is_stdin ? stdin : opened.get();
  struct stat info {};
  if (file != nullptr && fstat(fileno(file), &info) == 0 && S_ISDIR(info.st_mode)) {
    errno = EISDIR;
    file = nullptr;
  }
  if (file == nullptr) {
    throw UsageError("cannot read the payload " + path + ": " + std::strerror(errno),
                     {"Name a file with --payload, - for stdin, or give the text with --data."});
  }
  std::string bytes;
  std::string buffer(256 * 1024, '\0');
  while (const size_t count = std::fread(buffer.data(), 1, buffer.size(), file)) {
    bytes.append(buffer, 0, count);
    if (bytes.size() > kMaxReadBytes) {
      throw UsageError("the payload " + path + " is larger than " +
                       std::to_string(kMaxReadBytes >> 20) + " MiB; hearthd takes 6 MiB");
    }
  }
  if (std::ferror(file)) {
    throw LocalError("cannot read the payload " + path + ": " + std::strerror(errno));
  }
  return bytes;
}

}  // namespace

std::string GuessContentType(const std::string& file, const std::string& bytes) {
  std::string ending = std::filesystem::path(file).extension().string();
  std::transform(ending.begin(), ending.end(), ending.begin(),
                 [](unsigned char c) { return std::tolower(c); });
  for (const EndingType& known : kTypes) {
    if (ending == known.ending) return known.type;
  }
  if (nlohmann::json::accept(bytes)) return "application/json";
  return IsUtf8(bytes) && bytes.find('\0') == std::string::npos ? "text/plain"
                                                                : "application/octet-stream";
}

Payload ReadPayload(const InvokeOptions& options) {
  Payload payload;
  if (!options.payload_file.empty()) {
    payload.bytes = ReadAll(options.payload_file);
  } else {
    payload.bytes = options.data.value_or("{}");
  }
  payload.content_type = options.content_type.empty()
                             ? GuessContentType(options.payload_file, payload.bytes)
                             : options.content_type;
  return payload;
}

ResultFile::ResultFile(const std::string& path) : path_(path) {
  // /dev/null, a pipe: nothing to be renamed.
  std::error_code error;
  const bool special =
      std::filesystem::exists(path, error) && !std::filesystem::is_regular_file(path, error);
  written_ = special ? path : path + ".partial";
  file_ = std::fopen(written_.c_str(), "wbe");
  if (file_ == nullptr) {
    throw UsageError("cannot write " + path + ": " + std::strerror(errno),
                     {"Nothing was run. Choose another --output."});
  }
}

ResultFile::~ResultFile() {
  if (file_ != nullptr) std::fclose(file_);
  if (!kept_ && written_ != path_) unlink(written_.c_str());
}

void ResultFile::Keep(const std::string& bytes) {
  errno = 0;
  const bool wrote = std::fwrite(bytes.data(), 1, bytes.size(), file_) == bytes.size();
  // Its buffer may be what does not fit.
  const bool closed = std::fclose(std::exchange(file_, nullptr)) == 0;
  kept_ =
      wrote && closed && (written_ == path_ || std::rename(written_.c_str(), path_.c_str()) == 0);
  if (!kept_) throw ResultLost(path_ + ": " + std::strerror(errno));
}

CliError ResultLost(const std::string& where) {
  Failure failure;
  failure.exit_code = kExitResultLost;
  failure.code = "RESULT_LOST";
  failure.message = "the function succeeded, but its result cannot be written to " + where;
  failure.advice = {"It has run: run it again only if that does no harm."};
  return CliError(std::move(failure));
}

}  // namespace hearth::cli
