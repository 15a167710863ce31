// SPDX-License-Identifier: GPL-2.0
/*
 * test_mce.c - which machine check is a guest's own doing.
 */
#include "shim/base.h"
#include "ktap.h"

#include "../../kmod/svm/mce.h"

#define STATUS 0xb600000000010015ULL	/* in the revision guide of family 10h, erratum 383 */

TEST(the_status_of_erratum_383_is_the_guests_doing_and_no_other_is)
{
	EXPECT_TRUE(svm_mce_is_erratum_383(STATUS));
	for (int bit = 0; bit < 64; bit++)
		EXPECT_EQ(bit == 62, svm_mce_is_erratum_383(STATUS ^ 1ULL << bit));
	EXPECT_FALSE(svm_mce_is_erratum_383(0));
}
