// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>
#include <string_view>

// The function itself: {"sha256":"64 hex digits","bytes":3}.
std::string DescribePayload(std::string_view payload);
