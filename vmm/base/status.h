// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cerrno>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"

namespace hearth {

// The status of a failed system call: `errno_value` decides the code, `what` says what was tried.
inline absl::Status ErrnoStatus(int errno_value, absl::string_view what) {
  return absl::ErrnoToStatus(errno_value, what);
}
inline absl::Status ErrnoStatus(absl::string_view what) { return ErrnoStatus(errno, what); }

// Puts `context` before the message, keeps code and payloads.
inline absl::Status Annotate(const absl::Status& status, absl::string_view context) {
  absl::Status annotated(status.code(), absl::StrCat(context, ": ", status.message()));
  status.ForEachPayload([&](absl::string_view url, const absl::Cord& payload) {
    annotated.SetPayload(url, payload);
  });
  return annotated;
}

}  // namespace hearth

#define HEARTH_CONCAT_INNER_(a, b) a##b
#define HEARTH_CONCAT_(a, b) HEARTH_CONCAT_INNER_(a, b)

// Returns from the enclosing function when `expr` is not OK.
#define RETURN_IF_ERROR(expr)                                                              \
  do {                                                                                     \
    if (absl::Status hearth_status_ = (expr); !hearth_status_.ok()) return hearth_status_; \
  } while (false)

// ASSIGN_OR_RETURN(auto x, MakeX()): x, or return the status.
#define ASSIGN_OR_RETURN(lhs, expr) \
  HEARTH_ASSIGN_OR_RETURN_(HEARTH_CONCAT_(hearth_statusor_, __LINE__), lhs, expr)
#define HEARTH_ASSIGN_OR_RETURN_(statusor, lhs, expr)      \
  auto statusor = (expr);                                  \
  if (!statusor.ok()) return std::move(statusor).status(); \
  lhs = *std::move(statusor)
