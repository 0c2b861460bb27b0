# Prints "HASH FILE" for each file named on standard input, separated by NUL. Holes
# are not read, and zeros count as holes: files have the same hash when they have the
# same bytes and length.
use strict;
use warnings;
use Digest::SHA;
use Errno;
use Fcntl qw(SEEK_SET);

use constant { SEEK_DATA => 3, BLOCK => 65536 };
my $zeros = "\0" x BLOCK;

sub hash {
    my ($name) = @_;
    open(my $file, '<:raw', $name) or die "hash: $name: $!\n";
    my ($sum, $size) = (Digest::SHA->new(256), -s $file);
    for (my $at = 0; $at < $size;) {
        my $data = sysseek($file, $at, SEEK_DATA);
        if (!defined $data) {
            last if $!{ENXIO};    # nothing but a hole up to the end
            die "hash: $name: $!\n";
        }
        $at = int($data / BLOCK) * BLOCK;
        sysseek($file, $at, SEEK_SET) // die "hash: $name: $!\n";
        my $read = sysread($file, my $block, BLOCK) // die "hash: $name: $!\n";
        $block .= substr($zeros, $read);
        $sum->add(pack('Q>', $at), $block) if $block ne $zeros;
        $at += BLOCK;
    }
    $sum->add(pack('Q>', $size));
    return $sum->hexdigest;
}

local $/ = "\0";
while (my $name = <STDIN>) {
    chomp $name;
    print hash($name), " $name\n";
}
