// SPDX-License-Identifier: Apache-2.0
// What goes into an invocation, and where its result goes.
#pragma once

#include <cstdio>
#include <string>

#include "cli/commands.h"
#include "cli/failure.h"

namespace hearth::cli {

struct Payload {
  std::string bytes;
  std::string content_type;
};

// The file, stdin or text that the options name, and its type: as given, or by the file's ending,
// or application/json when it is JSON, text/plain when it is text. No payload at all is {} as JSON.
Payload ReadPayload(const InvokeOptions& options);
std::string GuessContentType(const std::string& file, const std::string& bytes);

// A file for a result, which is in it whole or not at all: written beside `path` and renamed.
class ResultFile {
 public:
  // Opens it, so that a place that cannot be written to is found before anything runs: UsageError.
  explicit ResultFile(const std::string& path);
  // Unless it was kept nothing is left of it.
  ~ResultFile();
  ResultFile(const ResultFile&) = delete;
  ResultFile& operator=(const ResultFile&) = delete;

  // Once. Throws ResultLost.
  void Keep(const std::string& bytes);

 private:
  const std::string path_;
  std::string written_;  // What is open: beside path_, or path_ itself when that is a device.
  FILE* file_ = nullptr;
  bool kept_ = false;
};

// The function ran, but `where` ("out.png: No space left on device") did not take its result.
CliError ResultLost(const std::string& where);

}  // namespace hearth::cli
